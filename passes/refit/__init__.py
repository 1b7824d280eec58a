"""Least-squares refitting of layers after a lossy pass."""
