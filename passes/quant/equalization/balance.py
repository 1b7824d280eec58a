"""Scales that give every channel the same range in the layer that produces it and in the one that reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

BALANCED = 0.01
"""Ranges that differ by less than a hundredth are equal, which is more than rounding weights to bfloat16 changes."""
CONVERGED = 1e-3
"""If any differ by more, sweeps go on until they differ by less than this."""
SWEEPS = 1000
"""A chain of n layers needs about n² of them."""


@dataclass(frozen=True)
class Matrix:
    """A layer's logarithms of magnitudes, float32 [group, out, in], and the labels of the channels, 0 for those that stay.

    ``made`` are int64 [group · out], ``read`` int64 [group · in]. Ranges are largest magnitudes under the logarithms of
    scales [label] that divide the outputs and multiply the inputs, and logarithms too.
    """

    logs: torch.Tensor
    made: torch.Tensor
    read: torch.Tensor

    def made_ranges(self, scales: torch.Tensor) -> torch.Tensor:
        """Of every output channel [group · out]."""
        groups, _, inputs = self.logs.shape
        return (self.logs + scales[self.read].reshape(groups, 1, inputs)).amax(2).flatten() - scales[self.made]

    def read_ranges(self, scales: torch.Tensor) -> torch.Tensor:
        """Of every input channel [group · in]."""
        groups, outputs, _ = self.logs.shape
        return (self.logs - scales[self.made].reshape(groups, outputs, 1)).amax(1).flatten() + scales[self.read]


def ranges(
    makers: Sequence[Matrix], readers: Sequence[Matrix], scales: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logarithms of the ranges r1 of every label in the layers that make it, r2 in those that read it; -inf for zero."""
    made, read = torch.full_like(scales, -torch.inf), torch.full_like(scales, -torch.inf)
    for matrix in makers:
        made.scatter_reduce_(0, matrix.made, matrix.made_ranges(scales), "amax")
    for matrix in readers:
        read.scatter_reduce_(0, matrix.read, matrix.read_ranges(scales), "amax")
    return made, read


def balance(matrices: Sequence[Matrix], labels: int) -> tuple[torch.Tensor, float]:
    """Logarithms of the scales [labels], float64, and the largest difference of two ranges that is left, a logarithm too.

    Nagel et al. 2019, eq. 11: s = sqrt(r1 · r2) / r2, the first layer divided and the second multiplied by it, one pair
    of layers after the other until nothing changes (section 4.1). Ranges are largest magnitudes. Layers whose results
    are added are one layer with their weights side by side, and those that read one value are one layer with their
    weights stacked, so that r1 and r2 are maxima over these. A channel that is all zeros on one side keeps its scale.
    """
    scales = torch.zeros(labels)
    streams = list(_streams(matrices, labels))
    worst = max((_gap(scales, stream).abs().max().item() for stream in streams), default=0.0)
    if worst <= BALANCED:
        return scales.double(), worst
    for _ in range(SWEEPS):
        worst = 0.0
        for stream in streams:
            gap = _gap(scales, stream)
            worst = max(worst, gap.abs().max().item())
            scales[stream.labels] += torch.where(gap.abs() > CONVERGED, gap / 2, 0.0)
        if worst <= CONVERGED:
            break
    return scales.double(), worst


@dataclass(frozen=True)
class _Stream:
    """Labels that are scaled at once, with the layers that produce and those that read them."""

    labels: torch.Tensor
    makers: list[Matrix]
    readers: list[Matrix]


def _streams(matrices: Sequence[Matrix], labels: int) -> Iterator[_Stream]:
    """The channels that one layer produces are one stream, with those of other layers that share labels with them."""
    free = [made[made > 0] for made in (m.made.unique() for m in matrices)]
    pairs = np.concatenate([np.zeros((2, 1), np.int64), *(np.stack([f, f[:1].expand_as(f)]) for f in free)], 1)
    edges = coo_matrix((np.ones(pairs.shape[1]), pairs), (labels, labels))
    number = torch.from_numpy(connected_components(edges, directed=False)[1])
    for stream in dict.fromkeys(int(number[f[0]]) for f in free if len(f)):
        inside = number == stream
        makers = [m for m in matrices if bool(inside[m.made].any())]
        readers = [m for m in matrices if bool(inside[m.read].any())]
        yield _Stream(inside.nonzero().flatten(), makers, readers)


def _gap(scales: torch.Tensor, stream: _Stream) -> torch.Tensor:
    """log(r1 / r2) of the stream's channels; 0 where one of the two is zero."""
    made, read = ranges(stream.makers, stream.readers, scales)
    gap = (made - read)[stream.labels]
    return torch.where(gap.isfinite(), gap, 0.0)
