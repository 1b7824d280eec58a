"""Passes on TIR: edge tiles, tails of vectors, AMX and dot-product instructions, work stealing; in order in ``pipeline``.

May import ``graph.relax_utils``, ``ops.block_names``, ``tiling`` and ``machine``.
"""
