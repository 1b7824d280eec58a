"""Values that are constant whatever the inputs are."""
