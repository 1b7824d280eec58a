"""Utilities for all rooms that know nothing of programs: typed options, text forms, progress, users' code. No torch."""
