"""Passes on TIR: edge tiles, tails of vectors, AMX and dot-product instructions, work stealing; in order in ``pipeline``.

May import ``ops.block_names`` and ``machine``.
"""
