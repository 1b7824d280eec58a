"""What every room may use and that knows nothing of programs: typed options, text forms, progress, users' code. No torch."""
