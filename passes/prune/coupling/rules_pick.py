"""Some of the elements, or several tensors side by side."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxopt.ir.alias_analysis import written
from fxopt.ir.op_table import arguments, set_argument
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.axes import Axis
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule

_BY_POSITION = "indices along this dim are picked by position"


def _slice(cut: Cut, node: fx.Node) -> None:
    """From the first index that stays on."""
    if node not in cut.sweep.notes:
        return
    if isinstance(cut.sweep.notes[node], Strided):
        _pick(cut, node, cut.sweep.notes[node])
        return
    before, picked = cut.sweep.notes[node]
    first, count = cut.size(before, ax.length(before), node), cut.size(picked, ax.length(picked), node)
    set_argument(node, "start", first)
    if "length" in arguments(node):
        set_argument(node, "length", count)
    else:
        set_argument(node, "end", first + count)


@dataclass(frozen=True)
class Strided:
    """A slice with a step: the dim, its axis, and the indices that are picked."""

    dim: int
    source: Axis
    picked: Axis
    numbers: NDArray[np.int64]


def _pick(cut: Cut, node: fx.Node, strided: Strided) -> None:
    """What is left of the indices, by number: they need not be a regular row any more."""
    kept, wanted = cut.kept(strided.source), cut.kept(strided.picked)
    if kept is None:
        return
    places = np.searchsorted(kept, strided.numbers if wanted is None else strided.numbers[wanted]).astype(np.int64)
    index = cut.index_tensor(places, node, f"{node.name}_index")
    node.target, node.args, node.kwargs = torch.ops.aten.index_select.default, (node.args[0], strided.dim, index), {}


@rule("slice", "narrow", rewrite=_slice)
def slice_(sweep: Sweep, node: fx.Node) -> Axes:
    """A run of indices, or every so many of them; with bounds that are computed, positions count."""
    call, axes = arguments(node), sweep.of(node.args[0])
    dim = call["dim"] % len(axes)
    rows = None if ax.is_fixed(axes[dim]) else ax.rows_of(axes[dim])
    start, end = call.get("start") or 0, call.get("end")
    computed = any(isinstance(n, fx.Node) for n in (start, end, call.get("length")))
    step = call.get("step", 1)
    if rows is None or computed or (step != 1 and _writes(node.graph)):  # what is picked by number is no view
        sweep.pin([axes[dim]], node, _BY_POSITION)
        axes[dim] = sweep.fixed(node.meta["val"])[dim]
        return axes
    if "length" in call:
        start %= len(rows)
        end = start + call["length"]
    start, end, _ = slice(start, end).indices(len(rows))
    if step != 1:
        picked = ax.axis_of(rows[start:end:step])
        sweep.notes[node] = Strided(dim, axes[dim], picked, np.arange(start, end, step))
        axes[dim] = picked
        return axes
    if (start, end) == (0, len(rows)) and "length" not in call:
        return axes
    picked = ax.axis_of(rows[start:end])
    sweep.notes[node] = (ax.axis_of(rows[:start]), picked)
    axes[dim] = picked
    return axes


def _select(cut: Cut, node: fx.Node) -> None:
    axis = cut.sweep.notes.get(node)
    if axis is not None and (kept := cut.kept(axis)) is not None:
        index = arguments(node)["index"]
        set_argument(node, "index", int(np.searchsorted(kept, index % ax.length(axis))))


def _writes(graph: fx.Graph) -> bool:
    return any(written(node) for node in graph.nodes)


@rule("select", rewrite=_select)
def select(sweep: Sweep, node: fx.Node) -> Axes:
    """One index, which must stay; its number is counted anew."""
    call, axes = arguments(node), sweep.of(node.args[0])
    dim, index = call["dim"] % len(axes), call["index"]
    axis = axes.pop(dim)
    rows = None if ax.is_fixed(axis) else ax.rows_of(axis)
    if rows is None or not isinstance(index, int):
        sweep.pin([axis], node, _BY_POSITION)
        return axes
    sweep.pin([(rows[[index]],)], node, "this index is selected by its number")
    sweep.notes[node] = axis
    return axes


def _sections(cut: Cut, node: fx.Node) -> None:
    """However it was split: into parts of these sizes now."""
    parts, dim = cut.sweep.notes[node]
    if any(cut.shrinks(axis) for axis in parts):
        node.target = torch.ops.aten.split_with_sizes.default
        node.args, node.kwargs = (node.args[0], [cut.size(axis, ax.length(axis), node) for axis in parts], dim), {}


@rule("split", "split_with_sizes", "chunk", "tensor_split", rewrite=_sections)
def split(sweep: Sweep, node: fx.Node) -> list[Axes]:
    """Runs of indices, side by side."""
    axes, dim = sweep.of(node.args[0]), arguments(node)["dim"]
    values, dim = node.meta["val"], dim % len(axes)
    ends = np.cumsum([0] + [ax.length(sweep.fixed(v)[dim]) for v in values])
    rows = sweep.rows(axes[dim], node)
    parts: list[Axis] = [(int(b - a),) if rows is None else ax.axis_of(rows[a:b]) for a, b in itertools.pairwise(ends)]
    sweep.notes[node] = (parts, dim)
    return [[*axes[:dim], p, *axes[dim + 1 :]] for p in parts]


@rule("glu")
def glu(sweep: Sweep, node: fx.Node) -> Axes:
    """The first half of a dim times a function of the other half."""
    axes, dim = sweep.of(node.args[0]), arguments(node)["dim"]
    rows = sweep.rows(axes[dim], node)
    half = ax.length(axes[dim]) // 2
    axes[dim] = (half,) if rows is None else sweep.unite(ax.axis_of(rows[:half]), ax.axis_of(rows[half:]), node)
    return axes


@rule("unbind")
def unbind(sweep: Sweep, node: fx.Node) -> list[Axes]:
    """Each index by its number."""
    axes, dim = sweep.of(node.args[0]), arguments(node)["dim"]
    sweep.pin([axes.pop(dim)], node, "each index of this dim is taken by its number")
    return [list(axes) for _ in node.meta["val"]]


@rule("getitem")
def getitem(sweep: Sweep, node: fx.Node) -> Any:
    """One of several results."""
    return sweep.axes[node.all_input_nodes[0]][node.args[1]]
