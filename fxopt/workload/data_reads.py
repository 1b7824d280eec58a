"""Reads of a workload's data: which batches of which split. The digest covers just these, by content, and the data's code."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from fxopt.support.observed import is_volatile
from fxopt.workload.value_key import value_key
from fxopt.workload.workload import Data, Split, Workload

Read = tuple[Split, int, int | None, int | None]
"""Batches of a split: their size, the seed of their order, and how many were taken; None for all of them."""

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_SIZE = 64


class DataReads:
    """The reads of one data object, as they happen; :meth:`to_list` has them as plain values."""

    def __init__(self, reads: list[Any] | None = None) -> None:
        self.taken: dict[tuple[Split, int, int | None], int | None] = {}
        for split, size, seed, count in reads or ():
            self.taken[split, size, seed] = count

    def note(self, split: Split, size: int, seed: int | None, count: int | None) -> None:
        """Record that so many batches were taken, None for all."""
        known = self.taken.get((split, size, seed), 0)
        self.taken[split, size, seed] = None if known is None or count is None else max(known, count)

    def to_list(self) -> list[list[Any]]:
        """Plain values: the whole split in its order for what was shuffled, and the first shuffled batch."""
        plain: dict[tuple[Split, int, int | None], int | None] = {}
        for (split, size, seed), count in self.taken.items():
            if seed is None:
                plain[split, size, None] = count
            elif not any(s == split and n is not None for s, _, n in plain):
                plain |= {(split, _SIZE, None): None, (split, size, seed): 1}
        return [[*key, count] for key, count in sorted(plain.items(), key=repr)]

    def digest(self, data: Data, own: str) -> str:
        """sha256 of the present results of these reads, and of ``own``, the ``value_key`` of the data. Raises Unkeyed."""
        digest = hashlib.sha256(own.encode())
        for split, size, seed, count in self.to_list():
            digest.update(f"{split} {size} {seed} {count}\n".encode())
            for i, batch in enumerate(data.batches(split, batch_size=size, seed=seed)):
                if count is not None and i >= count:
                    break
                digest.update(value_key(batch).encode())
        return digest.hexdigest()


def whole_split(data: Data, split: Split) -> str:
    """The digest of data of which a whole split is read. Raises Unkeyed."""
    reads = DataReads()
    reads.note(split, _SIZE, None, None)
    return reads.digest(data, value_key(data))


class _Watched:
    """Data that record what is read of them."""

    def __init__(self, data: Data, reads: DataReads) -> None:
        self._data, self._reads = data, reads

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[Any]:
        """The batches of the data."""
        self._reads.note(split, batch_size, seed, 0)
        for count, batch in enumerate(self._data.batches(split, batch_size=batch_size, seed=seed), 1):
            self._reads.note(split, batch_size, seed, count)
            yield batch
        self._reads.note(split, batch_size, seed, None)

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """The metric of the data, over the whole split."""
        self._reads.note(split, _SIZE, None, None)
        return self._data.evaluate(model, split)

    def __getattr__(self, name: str) -> Any:
        if name not in ("metric", "loss", "soft_loss", "example_count"):  # other methods of the data may read anything
            for split in _SPLITS:
                self._reads.note(split, _SIZE, None, None)
        return getattr(self._data, name)


def watched(workload: Workload, reads: DataReads) -> Workload:
    """The same workload, which records what is read of its data; a result that depends on its model must not be cached."""
    data: Any = _Watched(workload.data, reads) if workload.data is not None else None
    program = workload.program and _telling(workload.program)
    return replace(
        workload, data=data, model=_telling(workload.model), inputs=_telling(workload.inputs), program=program
    )


def _telling(factory: Callable[[], Any]) -> Callable[[], Any]:
    @functools.wraps(factory)
    def make() -> Any:
        is_volatile("it makes the workload's model anew")
        return factory()

    return make
