"""Which tile of a task to try next: the best by rule, then neighbours of the best so far, then the rest at random."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random

from fxopt.backends.tvm.machine.processor import Processor
from fxopt.backends.tvm.tiling.task import Task, Tile, candidates, cost
from fxopt.backends.tvm.tuning.trial import TaskRecord

_FIRST = 6
"""Tiles by rule before anything else: they tell more than neighbours of the first one."""
_ONE_IN = 4
"""Of so many trials one is random, so that the search does not get stuck."""
_FEW_NEAR, _FEW_LEFT = 3, 8
"""Least number of tiles to choose from: else the better half by rule of the neighbours, or the better third of all the rest.
These, and the two above, are choices that no bench compares; ``tests/bench/tvm_tuning.py`` shows the gain of a whole search."""
_FOR_OPERANDS = 4
"""Registers that tiles leave free for operands: some vectors of weights, and an input. The rule leaves more."""
_CODE = 256
"""Vector instructions of one step up to which a tile is tried: more code than that takes seconds to compile."""


def propose(task: Task, processor: Processor, record: TaskRecord, seed: int) -> Tile | None:
    """The next tile to try, the same for the same trials and seed; None if all were tried. The first is that by rule."""
    tried = record.tried()
    by_rule = candidates(task, processor)
    for tile in by_rule if record.best is None else by_rule[:_FIRST]:
        if tile not in tried:
            return tile
    left = [tile for tile in space(task, processor) if tile not in tried]
    if not left or record.best is None:
        return None
    chance, best = random.Random(f"{seed} {task.key} {len(tried)}"), record.best
    near = [tile for tile in left if _steps(tile, best) == 1]
    if near and len(tried) % _ONE_IN:
        return chance.choice(near[: max(_FEW_NEAR, len(near) // 2)])
    return chance.choice(left[: max(_FEW_LEFT, len(left) // 3)])


@functools.cache
def space(task: Task, processor: Processor) -> tuple[Tile, ...]:
    """All tiles that a task is tried with: some more accumulators than by rule, all ways to unroll, and lines at once.

    The best by rule come first.
    """
    if task.offered:
        return task.offered
    found = _tiles(task, processor)
    for way in task.winograd_options:
        found += [dataclasses.replace(tile, winograd=way.side) for tile in _tiles(way.products, processor)]
    return tuple(sorted(found, key=lambda tile: cost(task, tile)))


def _tiles(task: Task, processor: Processor) -> list[Tile]:
    most = processor.registers - _FOR_OPERANDS
    vectors = [v for v in (1, 2, 3, 4, 6) if not (task.grouped and task.vectors % v)] if task.shared else [1]
    unrolls = [u for u in (1, 2, 4, 8, 16) if task.steps % u == 0]
    found = []
    for v, unroll, lines in itertools.product(vectors, unrolls, (None, *task.lines)):
        rows = range(1, min(most // v, task.positions) + 1)
        found += [Tile(r, v, unroll, lines) for r in rows if r * v * unroll <= _CODE]
    return found


def _steps(one: Tile, other: Tile) -> int:
    """In how many fields two tiles differ; a difference of up to two rows counts once."""
    ways = [getattr(one, name) != getattr(other, name) for name in ("vectors", "unroll", "lines", "chunk", "winograd")]
    return sum(ways) + (abs(one.rows - other.rows) + 1) // 2
