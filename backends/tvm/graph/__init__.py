"""Passes on Relax: layouts through the whole graph, ops to kernels, constants folded, weights lifted, a static entry point.

May import ``ops``, ``tiling``, ``frontend`` and ``machine``. ``convert_layout`` is the way in.
"""
