"""What goes and what stays, once it is decided which atoms live; the rewrites of ops ask it."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxopt import Program
from fxopt.ir.op_table import arguments, set_argument
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.atoms import Rows
from fxopt.passes.prune.coupling.axes import Axis
from fxopt.passes.prune.coupling.sweep import Sweep


@dataclass
class Cut:
    """``live`` says of every atom whether it stays; the program is the one to be rewritten."""

    program: Program
    sweep: Sweep
    live: NDArray[np.bool_]
    replaced: dict[fx.Node, fx.Node] = field(default_factory=dict)
    """For a node whose value is no longer what it was, the node that has it now."""
    _masks: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    _kept: dict[int, NDArray[np.int64] | None] = field(default_factory=dict)

    def mask(self, rows: Rows) -> NDArray[np.bool_]:
        """Which indices of a dim stay."""
        rows = self.sweep.resolve(rows)
        if id(rows) not in self._masks:  # the sweep holds the arrays, so that no other array gets an id
            self._masks[id(rows)] = np.asarray(self.live[rows].all(1))
        return self._masks[id(rows)]

    def _stays(self, rows: Rows) -> NDArray[np.int64] | None:
        """The indices of a dim that stay; None if all do."""
        mask = self.mask(rows)
        if id(mask) not in self._kept:
            self._kept[id(mask)] = None if mask.all() else np.flatnonzero(mask)
        return self._kept[id(mask)]

    def kept(self, axis: Axis) -> NDArray[np.int64] | None:
        """The indices of an axis that stay; None if all do. A dim with a dynamic size inside cannot be listed."""
        if len(axis) == 1 and isinstance(axis[0], np.ndarray):
            return self._stays(axis[0])
        if not self.shrinks(axis):
            return None
        assert ax.length(axis) < ax.SYMBOLIC, "a dynamic size is part of it"
        kept = np.ones(1, np.bool_)
        for factor in axis:
            stays = np.ones(factor, np.bool_) if isinstance(factor, int) else self.mask(factor)
            kept = np.logical_and.outer(kept, stays).ravel()
        return np.flatnonzero(kept)

    def changes(self) -> bool:
        """Whether any index of any weight or value goes."""
        return any(self._stays(rows) is not None for rows in self.sweep.arrays)

    def is_listed(self, axis: Axis) -> bool:
        """Whether :meth:`kept` can say which indices stay."""
        return not self.shrinks(axis) or ax.length(axis) < ax.SYMBOLIC

    def shrinks(self, axis: Axis) -> bool:
        """Whether any index of it goes."""
        return any(self._stays(rows) is not None for rows in ax.arrays(axis))

    def count(self, axis: Axis) -> tuple[int, int]:
        """Indices that can go at all, before and after: fixed factors, dynamic sizes among them, are left out."""
        masks = [self.mask(rows) for rows in ax.arrays(axis)]
        return math.prod(len(m) for m in masks), math.prod(int(m.sum()) for m in masks)

    def size(self, axis: Axis, size: Any, node: fx.Node) -> Any:
        """A size that the graph holds, an int or a node that computes it, after the cut; -1 stays."""
        old, new = self.count(axis)
        if old == new or (isinstance(size, int) and size < 0):
            return size
        if isinstance(size, int):
            return size // old * new
        with self.program.graph.inserting_before(node):
            per_index = self.program.graph.call_function(operator.floordiv, (size, old))
            return self.program.graph.call_function(operator.mul, (per_index, new))

    def resize(self, node: fx.Node, name: str) -> None:
        """Rewrite the list of sizes that is the argument ``name`` of a node, by the axes of its result."""
        sizes, axes = arguments(node)[name], self.sweep.of(node)
        shift = len(axes) - len(sizes)
        new = [self.size(axes[i + shift], size, node) for i, size in enumerate(sizes)]
        if new != list(sizes):
            set_argument(node, name, new)

    def index_tensor(self, values: NDArray[np.int64], node: fx.Node, name: str) -> fx.Node:
        """A constant of indices, placed before a node."""
        return self.program.add_tensor(name, torch.tensor(values), node)
