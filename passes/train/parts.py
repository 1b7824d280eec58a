"""A batch in parts that run one after another, so that it needs the memory of a part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.workload.batching import examples

Part = tuple[tuple[Any, ...], Any, float]
"""Arguments and targets of some of the examples, and their share of the batch."""


def in_parts(args: tuple[Any, ...], target: Any, count: int) -> Iterator[Part]:
    """Cut a batch into ``count`` parts of nearly equal size, or one for each example of a smaller one.

    Tensors whose first size is the batch's are cut, and the others are in each part.
    """
    total = examples(args)
    count = min(count, total)
    if count <= 1:
        yield args, target, 1.0
        return
    for i in range(count):
        low, high = i * total // count, (i + 1) * total // count

        def some(value: Any, rows: slice = slice(low, high)) -> Any:
            whole = isinstance(value, torch.Tensor) and value.dim() and len(value) == total
            return value[rows] if whole else value

        yield pytree.tree_map(some, args), pytree.tree_map(some, target), (high - low) / total
