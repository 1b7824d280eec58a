"""The tuning task of a kernel: its key, its candidate tiles, and the choice made."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fxopt.backends.tvm.machine.processor import Processor

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Facts, TensorExpr


@dataclass(frozen=True)
class Tile:
    """One register tile: ``rows`` positions (columns of an image, or rows of a matrix) by ``vectors`` of outputs.

    ``unroll`` is how many steps of the innermost reduction loop are unrolled. ``lines`` of an image are padded at once:
    None for as many as the rule says, 0 for all. ``chunk`` tiles get all their outputs before the next ones; 0 if the loop
    over outputs is outermost. ``winograd``: the side of the squares of outputs that are computed by Winograd, for which
    the tile is one of its products; 0 for none.
    """

    rows: int
    vectors: int
    unroll: int = 4
    lines: int | None = None
    chunk: int = 0
    winograd: int = 0

    def to_list(self) -> list[int]:
        """As an annotation in TVM, without ``winograd``, which shows in the blocks of a kernel."""
        return [self.rows, self.vectors, self.unroll, -1 if self.lines is None else self.lines, self.chunk]

    @classmethod
    def from_list(cls, numbers: list[int]) -> Tile:
        """Back from :meth:`to_list`."""
        rows, vectors, unroll, lines, chunk = numbers
        return cls(rows, vectors, unroll, None if lines < 0 else lines, chunk)

    def to_dict(self) -> dict[str, int]:
        """Plain values, as a database holds them."""
        values = dataclasses.asdict(self).items()
        return {name: value for name, value in values if value is not None and (value or name not in _SELDOM)}


_SELDOM = ("chunk", "winograd")
"""Fields that are left out of plain values where they are 0."""


_MOST_SUMS = {32: 20, 16: 12}
"""Vectors of accumulators by number of registers. Of 16, 12 leave some for vectors of weights and an input. Of 32 there can be
more: tuning tries up to 28, but LLVM often spills then, which was three times slower; 20 measured best."""
_VECTORS, _UNROLLS = (1, 2, 3, 4), (4, 2, 1)
"""Vectors of a tile by rule, and steps to unroll: the largest divisor of their number. Tuning tries more of both."""
_TO_HIDE_LATENCY = 8
"""Independent accumulators that hide latency: a multiply-add takes four cycles, and there are two units for them."""
CYCLES = 0.5
"""Cycles of a multiply-add of vectors: there are two units for them."""
_LOAD = 0.3
"""Cost of a load in multiply-adds, with which it mostly runs in parallel. Fitted by hand to tuned tiles, as 20 above;
to fit them again, see how far ``tests/bench/tvm_speed.py --tune`` gets beyond the tiles by rule."""


class Kernel(Protocol):
    """The computation of a task as a kernel of its own: a small value that is pickled, for another process to time its tiles."""

    def tensors(self, tile: Tile) -> list[TensorExpr]:
        """The tensor expressions of its arguments, and that of its result, with static sizes."""


@dataclass(frozen=True)
class Task:
    """A kernel to choose a tile for: ``positions`` in a line that is tiled, the size hint where they are dynamic.

    ``vectors`` of outputs in all; ``steps`` of the innermost reduction; ``key`` names the task, the same for equal
    kernels of any model.
    """

    key: str
    positions: int
    vectors: int
    steps: int
    shared: bool = True
    """Whether all vectors of a tile share an input value; in a depthwise convolution each has its own."""
    grouped: bool = False
    """Whether a tile must stay within ``vectors``, as the next ones read other inputs; else the last may overhang."""
    lines: tuple[int, ...] = ()
    """Candidate numbers of lines to pad at once, besides the one by rule."""
    work: int = 1
    """Multiply-adds of vectors."""
    winograd_options: tuple[WinogradOption, ...] = ()
    """The same computation by Winograd, where possible."""
    offered: tuple[Tile, ...] = ()
    """The candidate tiles, best first, for kernels with a rule of their own; empty for the common rule."""
    offered_costs: tuple[float, ...] = ()
    """What each of them costs by that rule, in multiply-adds of vectors."""
    temporaries: int = 0
    """Registers that a multiply-add takes besides its operands and its accumulator."""
    kernel: Kernel | None = field(default=None, compare=False, repr=False)
    """The kernel to time; None for a task that is never tuned."""


@dataclass(frozen=True)
class WinogradOption:
    """A convolution by Winograd: ``side`` of a square of outputs, the task of its products, and its further costs.

    ``transform_cost`` is that of the transforms and of reading weights, in multiply-adds of vectors; ``extra_weight_bytes`` are
    those of the transformed weights, less those of the original ones.
    """

    side: int
    products: Task
    transform_cost: float
    extra_weight_bytes: int


def round_up(size: int, part: int) -> int:
    """A size rounded up to a multiple of ``part``."""
    return -(-size // part) * part


def candidates(task: Task, processor: Processor) -> list[Tile]:
    """Tiles whose accumulators fit in registers, the best by rule first, and then the best of each other algorithm.

    A tile leaves registers for its operands. The other sizes that tuning may try are in ``tuning.proposals.space``.
    """
    if task.offered:
        return list(task.offered)
    most = _MOST_SUMS[32] if processor.registers > 16 else _MOST_SUMS[16]
    found = _tiles(task, most - task.temporaries)
    for way in task.winograd_options:
        found += [dataclasses.replace(tile, winograd=way.side) for tile in _tiles(way.products, most)]
    found = sorted(found, key=lambda tile: cost(task, tile))
    first = {tile.winograd: tile for tile in reversed(found)}
    return [*sorted(first.values(), key=found.index), *(tile for tile in found if tile != first[tile.winograd])]


def _tiles(task: Task, most: int) -> list[Tile]:
    """All tiles of up to so many accumulators."""
    found = []
    for vectors in _VECTORS if task.shared else (1,):
        if task.grouped and task.vectors % vectors:
            continue
        for rows in range(1, most // vectors + 1):
            if rows <= task.positions:
                unroll = next(u for u in _UNROLLS if task.steps % u == 0)
                found.append(Tile(rows, vectors, unroll))
    return found


def cost(task: Task, tile: Tile) -> float:
    """Estimated time: multiply-adds, wasted ones, loads, and latency that is not hidden.

    A tile of ``r`` rows and ``v`` vectors reads ``r + v`` operands for ``r * v`` multiply-adds.
    """
    if task.offered:
        return task.offered_costs[task.offered.index(tile)]
    if tile.winograd:
        way = next(way for way in task.winograd_options if way.side == tile.winograd)
        return cost(way.products, dataclasses.replace(tile, winograd=0)) + way.transform_cost
    waste = round_up(task.positions, tile.rows) / task.positions * round_up(task.vectors, tile.vectors) / task.vectors
    sums = tile.rows * tile.vectors
    loads = (tile.rows + tile.vectors) / sums if task.shared else 1.0 + 1.0 / tile.rows
    return task.work * waste * max(1.0, _TO_HIDE_LATENCY / sums) * (1.0 + _LOAD * loads)


def fits(task: Task, tile: Tile) -> bool:
    """Whether a kernel of the task can be built in such tiles, as in all that tuning tries; a database may hold others."""
    if task.offered:
        return tile in task.offered
    if tile.winograd:
        way = next((way for way in task.winograd_options if way.side == tile.winograd), None)
        return way is not None and fits(way.products, dataclasses.replace(tile, winograd=0))
    whole = task.vectors % tile.vectors == 0 if task.grouped else True
    shared = task.shared or tile.vectors == 1
    return whole and shared and tile.chunk == 0 and tile.lines in (None, *task.lines)


class Choices:
    """The tile of each task for one processor: that of ``tuned`` by key, or the best by rule.

    ``winograd``: whether convolutions may be computed by Winograd. ``chosen`` records the choices, for the report, and
    ``facts`` further facts about the kernels; ``tasks`` and ``uses`` the tasks so far, and how often each occurred.
    """

    def __init__(self, processor: Processor, tuned: dict[str, Tile] | None = None, *, winograd: bool = True) -> None:
        self.processor, self.tuned, self.winograd = processor, tuned or {}, winograd
        self.chosen: dict[str, Tile] = {}
        self.tasks: dict[str, Task] = {}
        self.uses: Counter[str] = Counter()
        self.facts: Facts = {}

    def __call__(self, task: Task) -> Tile:
        """The tile to take."""
        if not self.winograd:
            task = dataclasses.replace(task, winograd_options=())
        tile = self.tuned.get(task.key)
        if tile is None or not fits(task, tile):
            tile = candidates(task, self.processor)[0]
        self.chosen[task.key] = tile
        self.tasks[task.key] = task
        self.uses[task.key] += 1
        return tile

    def to_dict(self) -> Facts:
        """The choices as plain values."""
        return {key: tile.to_dict() for key, tile in sorted(self.chosen.items())}


def output_size(size: int, border: int, kernel: int, stride: int, dilation: int) -> int:
    """The output size of a convolution along a dim; ``border`` is the padding of both sides."""
    return (size + border - (kernel - 1) * dilation - 1) // stride + 1
