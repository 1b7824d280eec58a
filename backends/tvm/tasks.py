"""What there is to choose for a kernel: a task with its key, the tiles it may be cut into, and the choice made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from fxopt.backends.tvm.processor import Processor


@dataclass(frozen=True)
class Tile:
    """One register tile: ``rows`` positions (columns of an image, or rows of a matrix) by ``vectors`` of outputs.

    ``unroll`` is how many steps of the innermost sum are written out.
    """

    rows: int
    vectors: int
    unroll: int = 4

    def to_dict(self) -> dict[str, int]:
        """Plain values, as a database holds them."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Task:
    """A kernel to choose a tile for: ``positions`` in a line that a tile is cut from, as many as there usually are.

    ``vectors`` of outputs there are in all; ``steps`` of the innermost sum; ``key`` names the task, the same for equal
    kernels of any model.
    """

    key: str
    positions: int
    vectors: int
    steps: int
    shared: bool = True
    """Whether one input value serves all the vectors of a tile; in a depthwise convolution each has its own."""


def candidates(task: Task, processor: Processor) -> list[Tile]:
    """Tiles whose sums stay in registers, the one that is best by rule first.

    A tile of ``r`` rows and ``v`` vectors reads ``r + v`` operands for ``r * v`` multiply-adds, needs about eight sums to
    hide the latency of one, and leaves registers for the operands. A tile that overhangs the positions computes for nothing.
    """
    most = processor.registers * 5 // 8 if processor.registers > 16 else 12
    found = []
    for vectors in (1, 2, 3, 4) if task.shared else (1,):
        if task.vectors % vectors:
            continue
        for rows in range(1, most // vectors + 1):
            if rows <= task.positions:
                unroll = next(u for u in (4, 2, 1) if task.steps % u == 0)
                found.append(Tile(rows, vectors, unroll))
    return sorted(found, key=lambda tile: _price(task, tile))


def _price(task: Task, tile: Tile) -> float:
    """Relative time of one multiply-add: what is computed for nothing, loads, and latency that is not hidden."""
    waste = -(-task.positions // tile.rows) * tile.rows / task.positions
    sums = tile.rows * tile.vectors
    loads = (tile.rows + tile.vectors) / sums if task.shared else 1.0 + 1.0 / tile.rows
    return waste * max(1.0, 8 / sums) * (1.0 + 0.3 * loads)


class Choices:
    """The tile of each task for one processor: that of ``known`` by key, or the best by rule.

    ``made`` notes what was chosen, for the report, and ``facts`` what else there is to say of the kernels.
    """

    def __init__(self, processor: Processor, known: dict[str, Tile] | None = None) -> None:
        self.processor, self.known = processor, known or {}
        self.made: dict[str, Tile] = {}
        self.facts: dict[str, Any] = {}

    def __call__(self, task: Task) -> Tile:
        """The tile to take."""
        tile = self.known.get(task.key) or candidates(task, self.processor)[0]
        self.made[task.key] = tile
        return tile

    def to_dict(self) -> dict[str, Any]:
        """Plain values of what was chosen."""
        return {key: tile.to_dict() for key, tile in sorted(self.made.items())}
