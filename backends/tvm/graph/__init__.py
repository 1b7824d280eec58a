"""Passes on Relax: layouts through the whole graph, ops to kernels, constants folded, weights lifted, a static entry point.

``convert_layout`` is the entry point. It goes through the bindings of ``main`` and applies to each the rule of its op
(``rules``; they are in ``lower_*`` and ``int8.lower_*``), which works on a ``lowering.Lowering``: the layouts of each value,
and the module being built. May import ``ops``, ``tiling``, ``frontend`` and ``machine``.
"""
