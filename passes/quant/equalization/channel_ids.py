"""Ids of channels, which a run over a graph assigns to every value, and labels of those that go together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import fx
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class LayerChannels:
    """A layer with a weight of its own, and the ids, int64, of the channels it produces [out] and reads [in]."""

    node: fx.Node
    made: torch.Tensor
    read: torch.Tensor


@dataclass
class Channels:
    """The channels of a program: those of one label go together, and those of label 0 stay.

    ``ids`` has the ids of each value's channels: int64 of the value's rank, of its sizes or 1 where they repeat.
    Id 0 is a channel that stays.
    """

    layers: list[LayerChannels] = field(default_factory=list)
    left: dict[fx.Node, str] = field(default_factory=dict)
    """Layers that cannot be changed, and why."""
    ids: dict[fx.Node, Any] = field(default_factory=dict)
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    """By id; set when the run is over."""
    _count: int = 1
    _pairs: list[torch.Tensor] = field(default_factory=list)
    _pins: list[tuple[torch.Tensor, str]] = field(default_factory=list)
    _reasons: dict[int, str] = field(default_factory=dict)
    _together: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def fresh(self, count: int) -> torch.Tensor:
        """Ids for the channels that a layer produces."""
        self._count += count
        return torch.arange(self._count - count, self._count)

    def pin(self, values: Iterable[Any], reason: str) -> None:
        """Pin all channels of some values."""
        for ids in pytree.tree_leaves(list(values)):
            if bool(ids.any()):
                self._pins.append((ids.unique(), reason))

    def unite(self, first: torch.Tensor, second: torch.Tensor, reason: str) -> torch.Tensor:
        """Unite channels that are combined element by element; ``reason`` is for those combined with one that stays."""
        pairs = torch.stack(torch.broadcast_tensors(first, second))
        distinct = pairs.flatten(1).unique(dim=1)
        self._pairs.append(distinct[:, distinct.all(0)])
        self.pin([distinct[:, ~distinct.all(0)]], reason)
        return pairs.amax(0)

    def settle(self) -> None:
        """Assign labels to the ids, at the end of the run."""
        first, second = torch.cat([*self._pairs, torch.zeros(2, 1, dtype=torch.int64)], 1).numpy()
        shape = (self._count, self._count)
        edges = coo_matrix((np.ones(len(first)), (first, second)), shape)
        self._together = connected_components(edges, directed=False)[1].astype(np.int64)
        for ids, reason in self._pins:
            for number in np.unique(self._together[ids.numpy()]).tolist():
                self._reasons.setdefault(number, reason)
        stays = np.isin(self._together, [self._together[0], *self._reasons])
        self.labels = np.where(stays, 0, self._together + 1)

    def label(self, ids: torch.Tensor) -> torch.Tensor:
        """Labels of ids, int64 of the same shape."""
        return torch.from_numpy(self.labels[ids.numpy()])

    def why(self, ids: torch.Tensor) -> list[str]:
        """For each of the ids that stay, the reason."""
        return [self._reasons.get(int(n), "") for n in self._together[ids[self.label(ids) == 0].numpy()]]
