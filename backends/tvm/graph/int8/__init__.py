"""Quantized programs in int8: sums of 32 bits between layers requantized to a byte, and no float stored between two.

May import what ``graph`` may. ``rewrite`` is the way in; the other files lower one family of ops each.
"""
