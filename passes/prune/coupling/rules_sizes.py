"""Elements made or repeated: such copies can be made in a smaller number, so they have atoms of their own."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from fxopt.ir.alias_analysis import written
from fxopt.ir.op_table import arguments, set_argument
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.axes import Axis
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule


def _copies(sweep: Sweep, n: Any) -> Axis:
    """An axis of ``n`` copies."""
    return (sweep.atoms.fresh(n),) if isinstance(n, int) and n > 1 else (ax.size_of(n),)


@rule("expand", "broadcast_to", rewrite=lambda cut, node: cut.resize(node, "size"))
def expand(sweep: Sweep, node: fx.Node) -> Axes:
    """A dim of size 1 that grows, or that is new."""
    axes, sizes = sweep.of(node.args[0]), node.meta["val"].shape
    axes = [(1,)] * (len(sizes) - len(axes)) + axes
    grows = [ax.length(axis) == 1 and ax.size_of(n) != 1 for axis, n in zip(axes, sizes, strict=True)]
    return [_copies(sweep, n) if new else axis for axis, n, new in zip(axes, sizes, grows, strict=True)]


@rule("expand_as")
def expand_as(sweep: Sweep, node: fx.Node) -> Axes:
    """The shape of the other operand."""
    return sweep.broadcast([sweep.of(n) for n in node.args[:2]], node)


def _repeat(cut: Cut, node: fx.Node) -> None:
    name = "repeats" if "repeats" in arguments(node) else "dims"
    copies = cut.sweep.notes[node]
    set_argument(node, name, [cut.size(axis, n, node) for axis, n in zip(copies, arguments(node)[name], strict=True)])


@rule("repeat", "tile", rewrite=_repeat)
def repeat(sweep: Sweep, node: fx.Node) -> Axes:
    """The whole dim again and again: the copy is the slower factor."""
    call = arguments(node)
    given: list[Any] = list(call["repeats"] if "repeats" in call else call["dims"])
    axes = sweep.of(node.args[0])
    repeats = [1] * (len(axes) - len(given)) + given  # tile may name the last dims alone
    axes = [(1,)] * (len(repeats) - len(axes)) + axes
    counts = [n.meta["val"] if isinstance(n, fx.Node) else n for n in repeats]
    copies = [_copies(sweep, n) for n in counts]
    sweep.notes[node] = copies[len(repeats) - len(given) :]
    return [ax.merged(copy, axis) for copy, axis in zip(copies, axes, strict=True)]


def _repeat_interleave(cut: Cut, node: fx.Node) -> None:
    set_argument(node, "repeats", cut.size(cut.sweep.notes[node], arguments(node)["repeats"], node))
    if arguments(node)["output_size"] is not None:  # a hint, which follows from the rest
        set_argument(node, "output_size", None)


@rule("aten.repeat_interleave.self_int", rewrite=_repeat_interleave)
def repeat_interleave(sweep: Sweep, node: fx.Node) -> Axes:
    """Every index several times in a row: the copy is the faster factor. As in grouped-query attention."""
    call = arguments(node)
    axes, dim = sweep.of(call["self"]), call["dim"]
    if dim is None:
        axes, dim = [ax.merged(*axes)], 0
    repeats = call["repeats"]
    sweep.notes[node] = _copies(sweep, repeats.meta["val"] if isinstance(repeats, fx.Node) else repeats)
    axes[dim] = ax.merged(axes[dim], sweep.notes[node])
    return axes


@rule(
    "zeros",
    "ones",
    "full",
    "empty",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    rewrite=lambda cut, node: cut.resize(node, "size"),
)
def create(sweep: Sweep, node: fx.Node) -> Axes:
    """One number everywhere."""
    return [_copies(sweep, n) for n in node.meta["val"].shape]


def _old_size(cut: Cut, node: fx.Node) -> None:
    """The graph goes on computing with the size that was, for that is what other rewrites start from."""
    axes, dim = cut.sweep.of(node.args[0]), arguments(node).get("dim")
    counts = [cut.count(axis) for axis in (axes if dim is None else [axes[dim]])]
    old, new = math.prod(n for n, _ in counts), math.prod(n for _, n in counts)
    if old == new:
        return
    users = list(node.users)
    per_index = cut.program.call(operator.floordiv, node, new, like=node)
    size = cut.program.call(operator.mul, per_index, old, like=per_index)
    for user in users:
        user.replace_input_with(node, size)


@rule("sym_size", "sym_numel", rewrite=_old_size)
def size(sweep: Sweep, node: fx.Node) -> Axes:
    """A number."""
    return []


@rule("sym_stride")
def stride(sweep: Sweep, node: fx.Node) -> Axes:
    """How elements lie in memory depends on all sizes."""
    sweep.pin(sweep.of(node.args[0]), node, "the graph reads its stride")
    return []


def _take(cut: Cut, node: fx.Node) -> None:
    """The numbers at the positions that stay."""
    (axis,) = cut.sweep.of(node)
    if (kept := cut.kept(axis)) is None:
        return
    users = list(node.users)
    following = node.next
    index = cut.index_tensor(kept, following, f"{node.name}_index")
    taken = cut.program.call(torch.ops.aten.index_select.default, node, 0, index, like=index)
    taken.meta |= {"val": node.meta["val"], "stack_trace": node.meta.get("stack_trace")}
    cut.sweep.axes[taken] = cut.sweep.axes[node]
    for user in users:
        user.replace_input_with(node, taken)
    cut.replaced[node] = taken


@rule("arange", "linspace", rewrite=_take)
def series(sweep: Sweep, node: fx.Node) -> Axes:
    """Each number belongs to its position, such as the frequencies of a table of sines: some of them can be taken."""
    if any(written(n) for n in node.graph.nodes):  # what is taken is a copy
        return sweep.fixed(node.meta["val"])
    return [_copies(sweep, n) for n in node.meta["val"].shape]


@rule("family:create")
def positions(sweep: Sweep, node: fx.Node) -> Axes:
    """Numbers that depend on the position."""
    return sweep.fixed(node.meta["val"])
