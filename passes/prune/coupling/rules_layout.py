"""The same elements in another shape or order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from fxopt.ir.op_table import arguments, set_argument
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule

_CLASH = "its dims are factored in another way elsewhere"


def _resize(name: str) -> Any:
    return lambda cut, node: cut.resize(node, name) if name in arguments(node) else None


@rule("view", "_unsafe_view", rewrite=_resize("size"))
@rule("reshape", rewrite=_resize("shape"))
@rule("flatten", "view_as", "reshape_as")
def reshape(sweep: Sweep, node: fx.Node) -> Axes:
    """Dims are factored and merged; view_as and reshape_as also keep what the other keeps."""
    made = ax.reshape(sweep.atoms, sweep.of(node.args[0]), ax.sizes_of(node.meta["val"]), sweep.because(node, _CLASH))
    if isinstance(node.args[-1], fx.Node) and node.args[-1] is not node.args[0]:
        made = [sweep.unite(a, b, node) for a, b in zip(made, sweep.of(node.args[-1]), strict=False)] or made
    return made


def _unflatten(cut: Cut, node: fx.Node) -> None:
    call = arguments(node)
    axes, at, sizes = cut.sweep.of(node), call["dim"], call["sizes"]
    at %= len(axes) - len(sizes) + 1
    set_argument(node, "sizes", [cut.size(axes[at + i], size, node) for i, size in enumerate(sizes)])


rule("unflatten", rewrite=_unflatten)(reshape)


@rule("permute", "transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint", "movedim")
def permute(sweep: Sweep, node: fx.Node) -> Axes:
    """The axes move: where to is read off the op itself, run on a tensor whose sizes are the positions."""
    axes = sweep.of(node.args[0])
    probe = torch.empty([i + 1 for i in range(len(axes))], device="meta")
    moved = node.target(probe, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return [axes[n - 1] for n in moved.shape]


@rule("unsqueeze")
def unsqueeze(sweep: Sweep, node: fx.Node) -> Axes:
    """A new dim of size 1."""
    axes = sweep.of(node.args[0])
    at = arguments(node)["dim"] % (len(axes) + 1)
    return [*axes[:at], (1,), *axes[at:]]


def _ones(node: fx.Node) -> list[int]:
    """The dims that a squeeze drops."""
    sizes = node.args[0].meta["val"].shape  # type: ignore[union-attr]
    dims = arguments(node).get("dim")
    chosen = range(len(sizes)) if dims is None else [dims] if isinstance(dims, int) else dims
    return sorted(
        {
            d % max(len(sizes), 1)
            for d in chosen
            if len(sizes) and not isinstance(sizes[d], torch.SymInt) and sizes[d] == 1
        }
    )


def _squeeze(cut: Cut, node: fx.Node) -> None:
    """Name the dims: one that shrinks to 1 must not vanish."""
    if any(cut.shrinks(axis) for axis in cut.sweep.of(node.args[0])):
        node.target, node.args, node.kwargs = torch.ops.aten.squeeze.dims, (node.args[0], _ones(node)), {}


@rule("squeeze", rewrite=_squeeze)
def squeeze(sweep: Sweep, node: fx.Node) -> Axes:
    """Dims of size 1 go."""
    dropped = _ones(node)
    sweep.pin(
        [axis for i, axis in enumerate(sweep.of(node.args[0])) if i in dropped], node, "its only index is squeezed"
    )
    return [axis for i, axis in enumerate(sweep.of(node.args[0])) if i not in dropped]


@rule("flip")
def flip(sweep: Sweep, node: fx.Node) -> Axes:
    """Indices in reverse order."""
    axes = sweep.of(node.args[0])
    for d in arguments(node)["dims"]:
        axes[d] = tuple(f[::-1] if isinstance(f, np.ndarray) else f for f in axes[d])
    return axes


def _group_count(cut: Cut, node: fx.Node) -> None:
    old, new = cut.count(cut.sweep.notes[node])
    set_argument(node, "groups", arguments(node)["groups"] // old * new)


@rule("channel_shuffle", "native_channel_shuffle", rewrite=_group_count)
def channel_shuffle(sweep: Sweep, node: fx.Node) -> Axes:
    """``[N, g c, *] -> [N, c g, *]``."""
    axes, groups = sweep.of(node.args[0]), arguments(node)["groups"]
    parts = ax.reshape(sweep.atoms, [axes[1]], [groups, ax.length(axes[1]) // groups], sweep.because(node, _CLASH))
    sweep.notes[node] = parts[0]
    axes[1] = ax.merged(parts[1], parts[0])
    return axes


@rule("meshgrid")
def meshgrid(sweep: Sweep, node: fx.Node) -> list[Axes]:
    """Positions."""
    for operand in node.all_input_nodes:
        sweep.pin(sweep.of(operand), node, "positions in a grid")
    return sweep.fixed(node.meta["val"])
