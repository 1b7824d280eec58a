"""Permute channels within each head or group, so that zero channels have the same index in all."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxopt import Program, graph_pass, op_name
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.atoms import Rows
from fxopt.passes.prune.coupling.sweep import Contraction, Sweep

_Ints = NDArray[np.int64]


@graph_pass(assumes_finite=True)
def align(program: Program) -> None:
    """Permute channels within each head or group, so that zero channels have the same index in all.

    A dim of 4 heads of 16 can lose a head, or one index of all heads. Where a choice is ragged, with another index in each
    head or another channel in each group of a convolution, shrink can remove none. The order inside a head does not matter
    to attention as long as all weights agree on it, so it can be permuted: the zeros come last.

    The graph stays as it is; only weights are permuted, where any are ragged.

    before:
        %x : f32[1,3,5]
        %w = param "up.weight" : f32[4,3,1]
        %v = param "down.weight" : f32[2,2,1] = [[[1], [0]], [[0], [2]]]
        %h = aten.conv1d(%x, %w)
        %y = aten.conv1d(%h, %v, None, [1], [0], [1], 2)
        return %y
    after:
        %x : f32[1,3,5]
        %w = param "up.weight" : f32[4,3,1]
        %v = param "down.weight" : f32[2,2,1] = [[[1], [0]], [[2], [0]]]
        %h = aten.conv1d(%x, %w)
        %y = aten.conv1d(%h, %v, None, [1], [0], [1], 2)
        return %y
    """
    sweep = couple(program)
    done: set[int] = set()
    for contraction in sweep.contractions:
        table = _table(sweep, contraction)
        if table is None or not done.isdisjoint(table[1].tolist()):
            continue
        blocks, places, zero = table
        order = np.argsort(zero, axis=1, kind="stable")
        if (order == order[0]).all() or not zero.any(1).all():
            continue
        if reason := _obstacle(sweep, blocks, places):
            program.skip(contraction.node, f"zeros are at other places in each of {len(blocks)} blocks: {reason}")
            continue
        done |= set(places.tolist())
        _permute(program, sweep, blocks, places, order)


def _table(sweep: Sweep, contraction: Contraction) -> tuple[_Ints, _Ints, NDArray[np.bool_]] | None:
    """Atoms of the blocks and of the positions in them, and which (block, position) is read as zero; None if there are none."""
    weight = sweep.program.tensor(contraction.weight)
    rows = sweep.resolve(contraction.rows)
    if weight is None or contraction.blocks is None or rows.shape[1] != 2 or not rows.all():
        return None
    for inner in (1, 0):
        places, blocks = np.unique(rows[:, inner]), np.unique(rows[:, 1 - inner])
        if len(places) * len(blocks) == len(rows) and (rows[: len(places), 1 - inner] == rows[0, 1 - inner]).all():
            zero = contraction.blocks((weight.detach() != 0).float()).amax((1, 3)).flatten().numpy() == 0
            order = rows[: len(places), inner]
            return rows[:: len(places), 1 - inner], order, zero.reshape(len(blocks), len(places))
    return None


def _obstacle(sweep: Sweep, blocks: _Ints, places: _Ints) -> str | None:
    """Why the positions in a block cannot be permuted; None if they can."""
    pinned = sweep.pinned
    if pinned[places].any():
        return sweep.reasons[int(pinned[places].max()) - 1].text
    for node in sweep.axes:
        axes = [sweep.resolve(r) for axis in sweep.all_axes(node) for r in ax.arrays(axis)]
        for rows in axes:
            found, counts = np.unique(rows[np.isin(rows, places)], return_counts=True)
            if len(found) and (len(found) != len(places) or len(set(counts.tolist())) != 1):
                return f"{node.name} takes some of the places in a block"
        if op_name(node).startswith(("aten.arange", "aten.linspace")) and any(np.isin(r, places).any() for r in axes):
            return f"{node.name} numbers the places in a block"
        if node.op == "get_attr" and any(np.isin(r, places).any() for r in axes):
            if any(np.isin(blocks, r).all() for r in axes):
                continue
            return f"{node.target} has the same numbers for all blocks"
    return None


def _permute(program: Program, sweep: Sweep, blocks: _Ints, places: _Ints, order: _Ints) -> None:
    changed: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for node in program.graph.nodes:
        tensor = program.tensor(node)
        if tensor is None or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        for dim, axis in enumerate(sweep.of(node)):
            for rows in (sweep.resolve(r) for r in ax.arrays(axis)):
                if np.isin(rows, places).any():
                    changed[str(node.target)] = _permuted(
                        sweep, node, tensor.detach(), dim, rows, (blocks, places, order)
                    )
    program.set_tensors(changed)


def _permuted(
    sweep: Sweep, node: fx.Node, tensor: torch.Tensor, dim: int, rows: Rows, what: tuple[_Ints, _Ints, _Ints]
) -> torch.Tensor:
    """A weight with the positions of every block in the new order along ``dim``."""
    blocks, places, order = what
    if np.isin(rows, blocks).any():
        return tensor.index_select(dim, torch.from_numpy(_new_order(rows, blocks, places, order)))
    other = next(
        d for d, axis in enumerate(sweep.of(node)) for r in ax.arrays(axis) if np.isin(blocks, sweep.resolve(r)).all()
    )
    block_rows = sweep.resolve(ax.arrays(sweep.of(node)[other])[0])
    result = tensor.clone()
    for block in blocks:
        one = np.full((len(rows), 1), block)
        new = _new_order(np.concatenate([rows, one], 1), blocks, places, order)
        mine = torch.from_numpy(np.flatnonzero((block_rows == block).any(1)))
        part = tensor.index_select(other, mine).index_select(dim, torch.from_numpy(new))
        result.index_copy_(other, mine, part)
    return result


def _new_order(rows: Rows, blocks: _Ints, places: _Ints, order: _Ints) -> _Ints:
    """For each index the one that replaces it: the position in the block changes, the rest of its monomial stays."""
    place_of = {int(a): j for j, a in enumerate(places)}
    block_of = {int(a): i for i, a in enumerate(blocks)}
    lists = rows.tolist()
    at: dict[tuple[tuple[int, ...], int], int] = {}
    for index, row in enumerate(lists):
        rest = tuple(sorted(a for a in row if a not in place_of))
        place = next((place_of[a] for a in row if a in place_of), -1)
        at[rest, place] = index
    new = np.arange(len(rows))
    for (rest, place), index in at.items():
        block = next((block_of[a] for a in rest if a in block_of), None)
        if place >= 0 and block is not None:
            new[index] = at[rest, int(order[block, place])]
    return new
