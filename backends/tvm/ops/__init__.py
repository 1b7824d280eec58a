"""Ops as tensor expressions: convolutions, products, reductions, layout transforms, and their int8 forms.

May import ``tiling``, ``machine`` and ``graph.relax_utils``. What their blocks are called is in ``block_names``.
"""
