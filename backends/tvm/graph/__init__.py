"""Passes on Relax: layouts through the whole graph, ops to kernels, constants folded, weights lifted, a static entry point.

``convert_layout`` is the way in. It goes through the bindings of ``main`` and asks for each the rule of its op (``rules``; the
rules stand in ``lower_*`` and ``int8.lower_*``), which works on a ``lowering.Lowering``: what is known of each value, and the
module being built. May import ``ops``, ``tiling``, ``frontend`` and ``machine``.
"""
