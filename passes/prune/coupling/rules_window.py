"""Windows and interpolation over the last dims, which hold positions; channels that become positions, or are made of them."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule

_POSITIONS = "positions in the image"
_CLASH = "its channels are factored in another way elsewhere"


@rule("family:pool", "family:resample", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "family:pad")
def window(sweep: Sweep, node: fx.Node) -> Any:
    """The last one, two or three dims, as the op's name says, are positions."""
    axes, values = sweep.of(node.args[0]), sweep.fixed(node.meta["val"])
    found = re.search(r"([123])d", op_name(node))
    spatial = int(found.group(1)) if found else len(axes)
    sweep.pin(axes[-spatial:], node, _POSITIONS)
    kept = axes[:-spatial]
    if isinstance(node.meta["val"], torch.Tensor):
        return [*kept, *values[len(kept) :]]
    return [[*kept, *fixed[len(kept) :]] for fixed in values]


@rule("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(sweep: Sweep, node: fx.Node) -> Axes:
    """``input [n, c, *]`` is read at the places of ``grid [n, *, 2]``."""
    image, grid = sweep.of(node.args[0]), sweep.of(node.args[1])
    sweep.pin([*image[2:], grid[-1]], node, _POSITIONS)
    return [sweep.unite(image[0], grid[0], node), image[1], *grid[1:-1]]


@rule("pixel_shuffle")
def pixel_shuffle(sweep: Sweep, node: fx.Node) -> Axes:
    """``[*, C r r, H, W] -> [*, C, H r, W r]``: the two factors r become positions."""
    axes, r = sweep.of(node.args[0]), arguments(node)["upscale_factor"]
    fixed = sweep.fixed(node.meta["val"])
    parts = ax.reshape(sweep.atoms, axes[-3:-2], [ax.length(fixed[-3]), r * r], sweep.because(node, _CLASH))
    sweep.pin([parts[1], *axes[-2:]], node, _POSITIONS)
    return [*axes[:-3], parts[0], *fixed[-2:]]


@rule("pixel_unshuffle")
def pixel_unshuffle(sweep: Sweep, node: fx.Node) -> Axes:
    """``[*, C, H r, W r] -> [*, C r r, H, W]``."""
    axes, r = sweep.of(node.args[0]), arguments(node)["downscale_factor"]
    sweep.pin(axes[-2:], node, _POSITIONS)
    return [*axes[:-3], ax.merged(axes[-3], (r * r,)), *sweep.fixed(node.meta["val"])[-2:]]


@rule("im2col")
def im2col(sweep: Sweep, node: fx.Node) -> Axes:
    """``[N, C, H, W] -> [N, C k k, L]``, channel first."""
    axes = sweep.of(node.args[0])
    sweep.pin(axes[-2:], node, _POSITIONS)
    kernel = arguments(node)["kernel_size"]
    return [*axes[:-3], ax.merged(axes[-3], (kernel[0] * kernel[1],)), sweep.fixed(node.meta["val"])[-1]]


@rule("col2im")
def col2im(sweep: Sweep, node: fx.Node) -> Axes:
    """``[N, C k k, L] -> [N, C, H, W]``, channel first."""
    axes, kernel = sweep.of(node.args[0]), arguments(node)["kernel_size"]
    positions = kernel[0] * kernel[1]
    shape = [ax.length(axes[-2]) // positions, positions]
    parts = ax.reshape(sweep.atoms, [axes[-2]], shape, sweep.because(node, _CLASH))
    sweep.pin([parts[1], axes[-1]], node, _POSITIONS)
    return [*axes[:-2], parts[0], *sweep.fixed(node.meta["val"])[-2:]]
