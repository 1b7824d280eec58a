"""Splits of data that are held in memory: one by name, and half of the validation split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from torch.utils import _pytree as pytree

from fxopt.errors import DataError
from fxopt.workload import Split

T = TypeVar("T")


def one_split(splits: Mapping[Split, T], split: Split) -> T:
    """What ``splits`` hold for a split. Raises DataError, with those that there are, if it is not among them."""
    if split not in splits:
        raise DataError(f"there is no split {split!r}; there are: {', '.join(splits)}")
    return splits[split]


def halved(load: Callable[[], Mapping[Split, T]], index: Literal[0, 1]) -> Mapping[Split, T]:
    """The splits that ``load`` returns, with every other example of the validation split, from the first or second on."""
    splits = load()
    return {**splits, "validation": pytree.tree_map(lambda values: values[index::2], splits["validation"])}
