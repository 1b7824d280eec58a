"""Passes and how they are run: options, pipeline, invariants, proofs, instruments.

May import ``workload``, ``backend``, ``target``, ``numerics``, ``ir`` and ``support``.
Offers :class:`fxopt.Pass`, :func:`fxopt.graph_pass`, :func:`fxopt.rewrite_pass`, :class:`fxopt.Pipeline` and ``Context``.
"""
