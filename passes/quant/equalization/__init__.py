"""Equalization: which channels are scaled or shifted together, how far, and the layers that absorb it."""
