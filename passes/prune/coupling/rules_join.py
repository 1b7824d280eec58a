"""Several tensors side by side, or constant cells beside one."""

from __future__ import annotations

from torch import fx

from fxopt.ir.op_table import arguments, set_argument
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.atoms import concatenated
from fxopt.passes.prune.coupling.axes import Axis
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule


@rule("cat", "concat", "concatenate")
def cat(sweep: Sweep, node: fx.Node) -> Axes:
    """One after the other along a dim, united along the others."""
    return _joined(sweep, node, _filled(sweep, node), arguments(node)["dim"])


@rule("hstack")
def hstack(sweep: Sweep, node: fx.Node) -> Axes:
    """Along dim 1; of one dim, along that."""
    parts = [axes or [(1,)] for axes in _filled(sweep, node)]
    return _joined(sweep, node, parts, min(1, len(parts[0]) - 1))


@rule("vstack")
def vstack(sweep: Sweep, node: fx.Node) -> Axes:
    """Along dim 0; what has one dim is a row."""
    parts = _filled(sweep, node)
    return _joined(sweep, node, [axes if len(axes) > 1 else [(1,), *(axes or [(1,)])] for axes in parts], 0)


def _filled(sweep: Sweep, node: fx.Node) -> list[Axes]:
    """Axes of the operands, but for empty ones of one dim, which go with any shape."""
    values = {n: n.meta["val"] for n in node.all_input_nodes}
    operands: list[fx.Node] = list(arguments(node)["tensors"])
    return [sweep.of(n) for n in operands if values[n].dim() != 1 or values[n].shape[0] != 0]


def _joined(sweep: Sweep, node: fx.Node, parts: list[Axes], dim: int) -> Axes:
    dim %= len(parts[0])
    axes = [parts[0][i] if i == dim else _all(sweep, [p[i] for p in parts], node) for i in range(len(parts[0]))]
    along = [p[dim] for p in parts]
    if all(ax.is_fixed(axis) for axis in along):
        axes[dim] = sweep.fixed(node.meta["val"])[dim]
        return axes
    rows = [ax.rows_of(axis) for axis in along]
    if any(r is None for r in rows):
        sweep.pin(along, node, "a dynamic size is concatenated with this dim")
        axes[dim] = sweep.fixed(node.meta["val"])[dim]
    else:
        axes[dim] = (concatenated([r for r in rows if r is not None]),)
    return axes


def _all(sweep: Sweep, axes: list[Axis], node: fx.Node) -> Axis:
    first = axes[0]
    for other in axes[1:]:
        first = sweep.unite(first, other, node)
    return first


@rule("stack")
def stack(sweep: Sweep, node: fx.Node) -> Axes:
    """A new dim, in which each has its place."""
    call = arguments(node)
    axes = [_all(sweep, list(met), node) for met in zip(*(sweep.of(n) for n in call["tensors"]), strict=True)]
    at = call["dim"] % (len(axes) + 1)
    return [*axes[:at], (len(call["tensors"]),), *axes[at:]]


def _pad(cut: Cut, node: fx.Node) -> None:
    """The numbers of cells that are left on either side."""
    amounts = list(arguments(node)["pad"])
    for dim, (before, after) in cut.sweep.notes[node].items():
        place = 2 * (len(cut.sweep.of(node)) - 1 - dim)
        amounts[place : place + 2] = [cut.size(before, amounts[place], node), cut.size(after, amounts[place + 1], node)]
    set_argument(node, "pad", amounts)


@rule("pad", "constant_pad_nd", rewrite=_pad)
def pad(sweep: Sweep, node: fx.Node) -> Axes:
    """Constant cells beside a dim; other modes, and cells that are cut off, pin it."""
    call, axes = arguments(node), sweep.of(node.args[0])
    fixed = sweep.fixed(node.meta["val"])
    sweep.notes[node] = {}
    for i, (before, after) in enumerate(zip(call["pad"][::2], call["pad"][1::2], strict=True)):
        dim = len(axes) - 1 - i
        plain = all(isinstance(n, int) and n >= 0 for n in (before, after))
        if before == 0 and after == 0:
            continue
        rows = sweep.rows(axes[dim], node)
        if rows is None or not plain or call.get("mode", "constant") != "constant":
            sweep.pin([axes[dim]], node, "what is padded with depends on positions along this dim")
            axes[dim] = fixed[dim]
            continue
        first, last = _copies_or_none(sweep, before), _copies_or_none(sweep, after)
        sweep.notes[node][dim] = (first, last)
        axes[dim] = (concatenated([*ax.arrays(first), rows, *ax.arrays(last)]),)
    return axes


def _copies_or_none(sweep: Sweep, n: int) -> Axis:
    return (sweep.atoms.fresh(n),) if n else (0,)
