"""A grouped convolution between two orders of channels in place of a dense one."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry
from fxopt.passes.blocks.entries.layers import Layers, only_convolution
from fxopt.passes.blocks.least_squares import fit, output_of
from fxopt.support.options import Tune

_STARTS, _ROUNDS = 8, 20


@block_entry("unit")
def grouped_shuffle(
    block: Program, samples: Samples | None, *, groups: Annotated[int, Ge(2), Tune(choices=(2, 4))] = 2
) -> str | None:
    """A grouped convolution, with the channels shuffled before and after it.

    Input and output channels are put in groups of equal size so that the sum of squared weights inside them is largest:
    balanced co-clustering, inputs and outputs assigned in turn (linear assignment; Dhillon 2001 has the unbalanced problem).
    The rest of the weight is refitted by least squares where there are samples.
    """
    found = only_convolution(block)
    if isinstance(found, str):
        return found
    outs, ins = found.weight.shape[:2]
    if outs % groups or ins % groups:
        return f"{ins} and {outs} channels are not in {groups} groups of equal size"
    rows, columns = (torch.from_numpy(order) for order in co_cluster(_squares(found.weight), groups))
    blocks = found.weight[rows].unflatten(0, (groups, -1))[:, :, columns].unflatten(2, (groups, -1))
    inner = torch.cat([blocks[g, :, g] for g in range(groups)])
    want = None if samples is None else output_of(block, found.node, samples.read)
    layers = Layers(block, found)
    layers.select(columns)
    stored = block.tensor(found.call["bias"])
    bias = (
        None if stored is None else block.add_tensor(str(found.call["bias"].target), stored.detach()[rows], found.node)
    )
    layers.spatial(inner, groups=groups, bias=bias)
    layer = layers.value
    layers.select(rows.argsort())
    layers.done()
    if samples is not None and want is not None:
        fit(block, layer, samples.read[:, columns], want[:, rows])
    return None


def co_cluster(squares: NDArray[np.float64], groups: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Orders of the rows and of the columns of ``squares [rows, columns]`` with most of their sum in diagonal blocks.

    The best of several random assignments of the columns, from a fixed seed; each is improved to a fixpoint.
    """
    random, best = np.random.default_rng(0), (-1.0, np.arange(0), np.arange(0))
    for _ in range(_STARTS):
        columns = random.permutation(np.arange(squares.shape[1]) % groups)
        total = -1.0
        for _ in range(_ROUNDS):
            rows, _ = _assigned(squares @ np.eye(groups)[columns])
            columns, now = _assigned(squares.T @ np.eye(groups)[rows])
            if now <= total:
                break
            total = now
        if total > best[0]:
            best = total, np.argsort(rows, kind="stable"), np.argsort(columns, kind="stable")
    return best[1], best[2]


def _assigned(gains: NDArray[np.float64]) -> tuple[NDArray[np.int64], float]:
    """Of ``gains [members, groups]``, the group of each member, all groups of one size, with the largest sum; and that sum."""
    count, groups = gains.shape
    slots = np.repeat(np.arange(groups), count // groups)
    members, taken = linear_sum_assignment(gains[:, slots], maximize=True)
    found = np.empty(count, np.int64)
    found[members] = slots[taken]
    return found, float(gains[members, slots[taken]].sum())


def _squares(weight: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(weight.square().flatten(2).sum(2).numpy(), np.float64)
