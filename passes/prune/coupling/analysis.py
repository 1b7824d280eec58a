"""The coupling of a program, and which of its atoms must live: plain functions of it."""

from __future__ import annotations

from torch import fx

from fxopt import Program
from fxopt.passes.prune.coupling.liveness import Liveness, liveness
from fxopt.passes.prune.coupling.sweep import Couple, Sweep, sweep
from fxopt.passes.prune.coupling.table import find_rule
from fxopt.passes.prune.known.values import known_values


def couple(program: Program) -> Sweep:
    """Give every value of a program its axes. Reads the graph, and of the weights only index constants.

    A program whose graph has not changed since is not swept again, see :mod:`fxopt.ir.analyses`.
    """
    return program.analyses.get(_couple, program)


def needed(sweep: Sweep) -> Liveness:
    """Which atoms can influence an output, with the weights as they are."""
    return liveness(sweep, known_values(sweep.program).get)


def _couple(program: Program) -> Sweep:
    return sweep(program, _couple_rule)


def _couple_rule(node: fx.Node) -> Couple | None:
    rule = find_rule(node)
    return rule.couple if rule else None
