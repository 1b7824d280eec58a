"""Quantized programs in int8: int32 accumulators are requantized to a byte between layers, and no float stored between two.

May import what ``graph`` may. Each ``lower_*`` has the rules of one family of ops; ``lower_quantize`` says how they go together.
"""
