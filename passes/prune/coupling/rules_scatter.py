"""Elements put or added at places that are given by numbers: along that dim positions count, the others are side by side."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.axes import Axis
from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule

_PLACES = "places along this dim are given by numbers"


@rule("index_add", "index_copy", "index_fill")
def index_add(sweep: Sweep, node: fx.Node) -> Axes:
    """``out[index[i], j] += source[i, j]``: whole slices along a dim, united with those that are there in the others."""
    call = arguments(node)
    axes, source = sweep.of(call["self"]), sweep.of(call.get("source"))
    dim = call["dim"] % max(len(axes), 1)
    sweep.pin([*axes[dim : dim + 1], *source[dim : dim + 1], *sweep.of(call["index"])], node, _PLACES)
    if len(source) == len(axes):
        return [axis if i == dim else sweep.unite(axis, source[i], node) for i, axis in enumerate(axes)]
    sweep.pin(source, node, _PLACES)
    return axes


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(sweep: Sweep, node: fx.Node) -> Axes:
    """``out[index[i, j], j] += src[i, j]``: dims but that one are the same in all three, as far as they are of one size."""
    call = arguments(node)
    axes, index, source = sweep.of(call["self"]), sweep.of(call["index"]), sweep.of(call.get("src"))
    dim = call["dim"] % max(len(axes), 1)
    return [
        _beside(sweep, node, axis, [other[i] for other in (index, source) if other], i == dim)
        for i, axis in enumerate(axes)
    ]


@rule("gather")
def gather(sweep: Sweep, node: fx.Node) -> Axes:
    """``out[i, j] = input[index[i, j], j]``: dims but that one are the same, as far as they are of one size."""
    call = arguments(node)
    axes, index = sweep.of(call["self"]), sweep.of(call["index"])
    dim = call["dim"] % max(len(axes), 1)
    if dim < len(axes):
        sweep.pin([axes[dim]], node, "elements are picked by their position")
    return [axis if i == dim else _beside(sweep, node, axis, [axes[i]], False) for i, axis in enumerate(index)]


@rule("segment_reduce")
def segment_reduce(sweep: Sweep, node: fx.Node) -> Axes:
    """Runs of indices of a dim are reduced to one each."""
    call, axes = arguments(node), sweep.of(node.args[0])
    at = call["axis"] % len(axes)
    for name in ("lengths", "indices", "offsets"):
        sweep.pin(sweep.of(call[name]), node, "ends of segments")
    sweep.pin(axes[: at + 1], node, "segments of this dim are reduced")
    fixed = sweep.fixed(node.meta["val"])
    return [*fixed[: at + 1], *axes[at + 1 :]]


@rule("affine_grid_generator")
def affine_grid(sweep: Sweep, node: fx.Node) -> Any:
    """``theta [n, d, d + 1]`` gives the places ``[n, *, d]`` at which an image is read."""
    sweep.pin(sweep.of(node.args[0]), node, "a transformation of positions")
    return sweep.fixed(node.meta["val"])


def _beside(sweep: Sweep, node: fx.Node, axis: Axis, others: list[Axis], placed: bool) -> Axis:
    """An axis united with those of the same dim; where places are numbers, or only a part is used, all of them stay."""
    if placed or any(ax.length(other) != ax.length(axis) for other in others):
        sweep.pin([axis, *others], node, _PLACES if placed else "only the first indices of this dim are used")
        return axis
    for other in others:
        axis = sweep.unite(axis, other, node)
    return axis
