"""Splits of data that are held in memory: drawn ones, one by name, and half of the validation split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from torch.utils import _pytree as pytree

from fxopt.errors import DataError
from fxopt.workload import Split

T = TypeVar("T")


def drawn_splits(examples: int, draw: Callable[[int, int], T]) -> dict[Split, T]:
    """What ``draw(count, seed)`` gives for each split, from a seed of its own.

    There are ``examples`` for training, an eighth as many for validation and a quarter for test.
    """
    counts: dict[Split, int] = {"train": examples, "validation": examples // 8, "test": examples // 4}
    return {split: draw(count, seed) for seed, (split, count) in enumerate(counts.items())}


def one_split(splits: Mapping[Split, T], split: Split) -> T:
    """What ``splits`` hold for a split. Raises DataError, with those that there are, if it is not among them."""
    if split not in splits:
        raise DataError(f"there is no split {split!r}; there are: {', '.join(splits)}")
    return splits[split]


def halved(load: Callable[[], Mapping[Split, T]], index: Literal[0, 1]) -> Mapping[Split, T]:
    """The splits that ``load`` returns, with every other example of the validation split, from the first or second on."""
    splits = load()
    return {**splits, "validation": pytree.tree_map(lambda values: values[index::2], splits["validation"])}
