"""Elements picked by numbers, which are constants or data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.axes import Axis
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule


def _injective(sweep: Sweep, index: Any) -> np.ndarray[Any, Any] | None:
    """The values of a constant 1-D index tensor without repeats."""
    values = sweep.program.tensor(index)
    if values is None or values.dim() != 1 or values.dtype not in (torch.int64, torch.int32):
        return None
    sweep.constants[index] = values = values.clone()
    numbers = values.numpy()
    return numbers if len(np.unique(numbers)) == len(numbers) and (numbers >= 0).all() else None


def _index(cut: Cut, node: fx.Node) -> None:
    if node not in cut.sweep.notes:
        return
    source, picked, numbers, old = cut.sweep.notes[node]
    kept, wanted = cut.kept(source), cut.kept(picked)
    if kept is None:
        return
    chosen = numbers if wanted is None else numbers[wanted]
    places = np.searchsorted(kept, chosen).astype(np.int64)
    new = cut.index_tensor(places, node, f"{node.name}_index")
    node.replace_input_with(old, new)


@rule("index_select", rewrite=_index)
def index_select(sweep: Sweep, node: fx.Node) -> Axes:
    """Indices in the order of a constant, or by data."""
    call, axes = arguments(node), sweep.of(node.args[0])
    axes[call["dim"]] = _picked(sweep, axes[call["dim"]], call["index"], node)
    return axes


def _picked(sweep: Sweep, axis: Axis, index: fx.Node, node: fx.Node) -> Axis:
    rows, numbers = None if ax.is_fixed(axis) else ax.rows_of(axis), _injective(sweep, index)
    if rows is None or numbers is None:
        sweep.pin([axis, *sweep.of(index)], node, "indices of this dim are picked by data")
        return (math.prod(ax.sizes_of(index.meta["val"])),)
    sweep.pin(sweep.of(index), node, "a list of indices")
    sweep.notes[node] = (axis, (rows[numbers],), numbers, index)
    return (rows[numbers],)


@rule("index", rewrite=_index)
def index(sweep: Sweep, node: fx.Node) -> Axes:
    """``x[:, i]``: dims that no tensor indexes stay as they are, the others must."""
    axes, indices = sweep.of(node.args[0]), arguments(node)["indices"]
    used = [i for i, n in enumerate(indices) if n is not None]
    if len(used) == 1 and _injective(sweep, indices[used[0]]) is not None:
        axes[used[0]] = _picked(sweep, axes[used[0]], indices[used[0]], node)
        return axes
    rest, at = _not_indexed(sweep, node, axes, indices)
    fixed = sweep.fixed(node.meta["val"])
    return [*rest[:at], *fixed[at : at + len(fixed) - len(rest)], *rest[at:]]


@rule("index_put")
def index_put(sweep: Sweep, node: fx.Node) -> Axes:
    """``x[:, i] = values``: dims that no tensor indexes are those of the values, the others must stay."""
    call = arguments(node)
    axes, values = sweep.of(call["self"]), sweep.of(call["values"])
    rest, at = _not_indexed(sweep, node, axes, call["indices"])
    behind = rest[at:]
    for axis, value in zip(behind[::-1], values[::-1], strict=False):
        sweep.broadcast([[axis], [value]], node)
    sweep.pin(values[: max(0, len(values) - len(behind))], node, "indices of this dim are picked by data")
    sweep.pin(rest[:at], node, "indices of other dims are picked by data")
    return axes


def _not_indexed(sweep: Sweep, node: fx.Node, axes: Axes, indices: Sequence[Any]) -> tuple[Axes, int]:
    """Axes of the dims that no tensor indexes, and before how many the dims of the index tensors stand; the others stay."""
    gone: list[int] = []
    dim = 0
    for i in indices:
        if i is None:
            dim += 1
            continue
        sweep.pin(sweep.of(i), node, "a list of indices")
        value = i.meta["val"]
        span = value.dim() if value.dtype in (torch.bool, torch.uint8) else 1  # a mask covers all of its dims
        gone += range(dim, dim + span)
        dim += span
    sweep.pin([axes[i] for i in gone], node, "indices of this dim are picked by data")
    used = [i for i, n in enumerate(indices) if n is not None]
    at = used[0] if used == list(range(used[0], used[0] + len(used))) else 0
    return [axis for i, axis in enumerate(axes) if i not in gone], at


@rule("embedding")
def embedding(sweep: Sweep, node: fx.Node) -> Axes:
    """Rows of a table by number; its columns are the channels."""
    table, numbers = sweep.of(node.args[0]), sweep.of(node.args[1])
    sweep.pin(table[:1], node, "rows of the table are looked up by number")
    return [*numbers, table[1]]


@rule("family:pick")
def by_data(sweep: Sweep, node: fx.Node) -> Any:
    """Elements picked by numbers: everything stays."""
    for operand in node.all_input_nodes:
        sweep.pin(sweep.of(operand), node, "elements are picked by their position")
    return sweep.fixed(node.meta["val"])
