"""Windows and interpolation over the last dims, which hold positions."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import fx

from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule
from fxopt.text import op_name

_POSITIONS = "positions in the image"


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
