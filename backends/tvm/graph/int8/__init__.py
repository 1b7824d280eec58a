"""Quantized programs in int8: int32 accumulators are requantized to a byte between layers, and no float is stored between two.

May import the same as ``graph``. Each ``lower_*`` has the rules of one family of ops; ``lower_quantize`` explains how they work
together.
"""
