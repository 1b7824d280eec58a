"""Sums over a dim of one operand against another: such a dim ends here, and the weight's rows start a new one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.axes import Axis
from fxopt.passes.prune.coupling.sweep import Axes, Contraction, Sweep
from fxopt.passes.prune.coupling.table import rule


def contract(
    sweep: Sweep, node: fx.Node, axis: Axis, *operands: tuple[fx.Node, int], also: Collection[int] = ()
) -> None:
    """Note that ``node`` sums over ``axis``, which is that dim of each of the operands.

    ``also`` are all dims of the last operand that end here. They count as alive: if each of two waited for an index of
    the other to be needed, neither ever were.
    """
    rows = sweep.rows(axis, node)
    if rows is None:
        return
    weights = [(n, dim) for n, dim in operands if n not in sweep.computed]
    if not weights:
        sweep.contractions.append(Contraction(node, rows, operands))
        return
    weight, dim = weights[-1]
    data = tuple((n, d) for n, d in operands if n is not weight)
    axes = sweep.of(weight)
    rank = len(axes)
    others = [(ax.length(a),) if i in also else a for i, a in enumerate(axes) if i != dim % rank]

    def blocks(w: torch.Tensor) -> torch.Tensor:
        return w.movedim(dim, -1).reshape(1, -1, w.shape[dim], 1)

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values.reshape([-1 if i == dim % rank else 1 for i in range(rank)])

    weight_rows = sweep.rows(ax.merged(*others), node) if others else None
    sweep.contractions.append(Contraction(node, rows, data, weight, dim % rank, blocks, spread, weight_rows))


@rule("linear")
def linear(sweep: Sweep, node: fx.Node) -> Axes:
    """``x [*, in]``, ``weight [out, in]``, ``bias [out]``."""
    x, weight, bias = (sweep.of(arguments(node)[name]) for name in ("input", "weight", "bias"))
    axis = sweep.unite(x[-1], weight[-1], node)
    contract(sweep, node, axis, (node.args[0], -1), (node.args[1], -1))  # type: ignore[arg-type]
    if len(weight) == 1:
        return x[:-1]
    return [*x[:-1], sweep.broadcast([weight[:1], bias], node)[0]]


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def matmul(sweep: Sweep, node: fx.Node) -> Axes:
    """``a [*, m, k]``, ``b [*, k, n]``, either also of one dim."""
    a, b = node.args[:2]
    return _product(sweep, node, a, b)


@rule("addmm", "baddbmm")
def addmm(sweep: Sweep, node: fx.Node) -> Axes:
    """The first operand is added."""
    added, a, b = node.args[:3]
    return sweep.broadcast([_product(sweep, node, a, b), sweep.of(added)], node)


def _product(sweep: Sweep, node: fx.Node, a: Any, b: Any) -> Axes:
    left, right = sweep.of(a), sweep.of(b)
    inner = -2 if len(right) > 1 else -1
    axis = sweep.unite(left[-1], right[inner], node)
    batch = sweep.broadcast([left[:-2], right[:-2]], node)
    contract(sweep, node, axis, (a, -1), (b, inner))
    return [*batch, *(left[-2:-1]), *(right[-1:] if len(right) > 1 else [])]


@rule("einsum")
def einsum(sweep: Sweep, node: fx.Node) -> Axes:
    """Equal letters are one dim; a letter that the result lacks is summed over."""
    operands: list[fx.Node] = list(node.args[1])  # type: ignore[arg-type]
    terms, result = _terms(str(node.args[0]).replace(" ", ""), [len(sweep.of(o)) for o in operands])
    if any(len(set(term)) != len(term) for term in terms):
        for operand in operands:
            sweep.pin(sweep.of(operand), node, "einsum with a diagonal")
        return sweep.fixed(node.meta["val"])
    letters: dict[str, Axis] = {}
    for term, operand in zip(terms, operands, strict=True):
        for letter, axis in zip(term, sweep.of(operand), strict=True):
            letters[letter] = sweep.broadcast([[letters[letter]], [axis]], node)[0] if letter in letters else axis
    for letter in sorted(letters.keys() - set(result)):
        wide = ax.length(letters[letter])  # a dim of 1 gives way, and has no index to be zero at
        found = [(o, t) for o, t in zip(operands, terms, strict=True) if letter in t]
        found = [(o, t) for o, t in found if ax.length(sweep.of(o)[t.index(letter)]) == wide]
        found.sort(key=lambda f: f[0] not in sweep.computed)  # a weight last
        also = [i for i, other in enumerate(found[-1][1]) if other not in result]
        contract(sweep, node, letters[letter], *((o, t.index(letter)) for o, t in found), also=also)
    return [letters[letter] for letter in result]


def _terms(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """A letter for every dim of the operands and of the result; digits stand for the dims of an ellipsis."""
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    spare = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    digits = "0123456789"
    terms = [term.replace("...", digits[10 - n :] if n else "") for term, n in zip(terms, spare, strict=True)]
    dots = digits[10 - max(spare) :] if max(spare) else ""
    if not arrow:
        every = "".join(terms)
        result = "..." + "".join(sorted(c for c in set(every) if every.count(c) == 1 and c not in digits))
    return terms, result.replace("...", dots)
