"""Linears whose inputs may be divided: their factors before these are solved, and the weights after."""

from __future__ import annotations

from torch import fx

from fxopt.ir.program import Program
from fxopt.passes.quant.smoothing.factors import SMOOTH, Factors
from fxopt.passes.quant.smoothing.sweep import readable_weight, sweep

Readers = dict[fx.Node, fx.Node]
"""By linear: its weight."""


def open_factors(program: Program) -> tuple[Factors, Readers]:
    """All factors, as yet 1, and the linears whose weights are stored; the others get a skip."""
    readers: Readers = {}
    needs = sweep(program)
    for linear in program.find("aten.linear"):
        weight = readable_weight(program, linear)
        if weight is None:
            program.skip(linear, "its weight is computed, not stored")
        else:
            readers[linear] = needs.first(weight)
    return Factors.unsolved(needs), readers


def still_open(factors: Factors, readers: Readers) -> Readers:
    """Those of the linears of which a column may have a factor."""
    return {n: w for n, w in readers.items() if factors.left(w).total() < len(factors.needs.columns[w])}


def absorb(program: Program, factors: Factors, readers: Readers) -> None:
    """Change the weights by factors that are solved; nothing is changed where one would leave the range of its dtype."""
    changed = factors.tensors()
    beyond = [weight for weight, tensor in changed.items() if not bool(tensor.isfinite().all())]
    for weight in beyond:
        program.skip(weight, f"smoothed, it would be beyond the range of {changed[weight].dtype}; nothing is changed")
    if beyond:
        return
    program.set_tensors({str(weight.target): tensor for weight, tensor in changed.items()})
    for linear, weight in readers.items():
        if factors.needs.read_as_it_is(weight):
            program.claims[linear.name] = (linear.name, {})


def explain(program: Program, factors: Factors, readers: Readers) -> None:
    """Report the columns that stay as they are, each with its reason."""
    for linear, weight in readers.items():
        channels = len(factors.needs.columns[weight])
        for reason, count in factors.left(weight).items():
            if reason == SMOOTH and count < channels:
                continue
            program.skip(linear, reason if count == channels else f"{count} of its {channels} input channels: {reason}")
