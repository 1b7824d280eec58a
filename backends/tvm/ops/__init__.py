"""Ops as tensor expressions: convolutions, products, reductions, layout transforms, and the same in int8.

May import ``tiling``, ``machine`` and ``graph.relax_utils``. What their blocks are called is in ``block_names``.
"""
