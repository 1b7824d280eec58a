"""Ops as tensor expressions: convolutions, products, reductions, layout transforms, and the same in int8.

May import ``tiling``, ``machine`` and ``graph.relax_utils``. The names of their blocks are in ``block_names``.
"""
