"""Output channels made of other output channels in place of a dense convolution."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry
from fxopt.passes.blocks.entries.layers import Layers, only_convolution
from fxopt.passes.blocks.least_squares import output_of
from fxopt.support.options import Tune

_ROWS, _VALUES = 4096, 2**20
"""Positions that fits are made on, at most, and values at them: the work grows with the square of the channels."""
_RIDGE = 1e-6
_REACH = 1
"""Pixels to each side that a cheap kernel sees, of size 3 as in the paper's table 3."""


@block_entry("unit")
def ghost(
    block: Program, samples: Samples | None, *, ratio: Annotated[int, Ge(2), Tune(choices=(2, 4))] = 2
) -> str | None:
    """Some of the output channels by the convolution, and the rest from these by a depthwise one of size 3.

    Every computed channel gives ``ratio`` - 1 others (Han et al. 2020, "GhostNet", section 3.1). Which are computed, and
    which each of them gives, is read off samples: every channel is fitted to every other by least squares, the computed
    ones are chosen greedily, the rest are shared out by linear assignment, and both are improved in turn. Kernels and biases
    of the depthwise convolution start as the fits.
    """
    found = only_convolution(block, one_pixel=True)
    if isinstance(found, str):
        return found
    outs, dims = len(found.weight), len(found.kernel)
    if outs % ratio:
        return f"{outs} channels are no multiple of {ratio}"
    if samples is None:
        return "it needs samples of what the block reads"
    errors, kernels = pairwise_fits(output_of(block, found.node, samples.read))
    primary, cheap = chosen(errors.numpy(), outs // ratio)
    parents = primary.repeat_interleave(ratio - 1)
    stored = block.tensor(found.call["bias"])
    bias = None
    if stored is not None:
        bias = block.add_tensor(str(found.call["bias"].target), stored.detach()[primary], found.node)
    layers, fitted = Layers(block, found), kernels[parents, :, cheap]
    layers.spatial(found.weight[primary], bias=bias)
    first = layers.value
    ones, shape = [1] * dims, (len(cheap), 1, *[2 * _REACH + 1] * dims)
    layers.spatial(
        fitted[:, :-1].reshape(shape), groups=len(primary), stride=ones, dilation=ones,
        padding="same" if isinstance(found.call["padding"], str) else [_REACH] * dims,
        bias=block.add_tensor("ghost_bias", fitted[:, -1].to(samples.read.dtype), found.node),
    )  # fmt: skip
    layers.join(first)
    layers.select(torch.cat([primary, cheap]).argsort())
    layers.done()
    return None


def pairwise_fits(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How well each channel of ``values [n, channels, *size]`` is made of each other by a kernel of size 3 and a bias.

    Returns float64 squared errors ``[from, to]`` over random positions, and kernels ``[from, pixels + 1, to]``, the bias last.
    """
    channels, dims = values.shape[1], values.dim() - 2
    around = F.pad(values, [_REACH] * 2 * dims)
    generator = torch.Generator().manual_seed(0)
    count = values.numel() // channels
    rows = torch.randperm(count, generator=generator)[: min(_ROWS, _VALUES // channels)]
    n, *places = torch.unravel_index(rows, (len(values), *values.shape[2:]))

    def moved(of: torch.Tensor, shift: tuple[int, ...]) -> torch.Tensor:
        index: tuple[Any, ...] = (n, slice(None), *(place + s for place, s in zip(places, shift, strict=True)))
        return of[index].double()

    taps = [moved(around, shift) for shift in itertools.product(range(2 * _REACH + 1), repeat=dims)]
    patches = torch.stack([*taps, torch.ones_like(taps[0])], 1).permute(2, 0, 1)  # [channels, rows, pixels + 1]
    wanted = moved(values, (0,) * dims)
    gram, cross = patches.mT @ patches, patches.mT @ wanted
    ridge = _RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1)
    gram = gram + ridge.clamp_min(torch.finfo(torch.float32).tiny)[:, None, None] * torch.eye(gram.shape[1])
    kernels = torch.linalg.solve(gram, cross)
    errors = wanted.square().sum(0) - 2 * (kernels * cross).sum(1) + (kernels * (gram @ kernels)).sum(1)
    return errors.clamp_min(0), kernels


def chosen(errors: np.ndarray, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels to compute, and the others in the order of those that they are made of, an equal number of each.

    ``errors [from, to]`` are what a channel loses where it is made of another. The greedy choice is improved as medoids are
    (Park & Jun 2009): in each group the channel that the others are best made of is computed, and the others are assigned
    again, while that loses less.
    """
    direct = errors.copy()
    np.fill_diagonal(direct, 0.0)
    primary, lost = list[int](), np.full(len(errors), np.inf)
    for _ in range(count):
        after = np.minimum(lost, direct).sum(1)
        after[primary] = np.inf
        primary.append(int(after.argmin()))
        lost = np.minimum(lost, direct[primary[-1]])
    groups, total = _assigned(direct, np.array(primary))
    while True:
        inside = direct[groups[:, :, None], groups[:, None, :]].sum(2)
        medoids = groups[np.arange(count), inside.argmin(1)]
        moved, now = _assigned(direct, medoids)
        if now >= total:
            return torch.from_numpy(groups[:, 0].copy()), torch.from_numpy(groups[:, 1:].flatten())
        groups, total = moved, now


def _assigned(direct: np.ndarray, primary: np.ndarray) -> tuple[np.ndarray, float]:
    """Groups ``[primary, members]``, each with the computed channel first, that lose least; and what they lose."""
    rest = np.setdiff1d(np.arange(len(direct)), primary)
    slots = np.repeat(primary, len(rest) // len(primary))
    rows, columns = linear_sum_assignment(direct[np.ix_(slots, rest)])
    groups = np.column_stack([primary, rest[columns].reshape(len(primary), -1)])
    return groups, float(direct[slots[rows], rest[columns]].sum())
