"""Data in batches of any size through a program that takes one size alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.ir.program import Program
from fxopt.workload.workload import Data


def fixed_batch(program: Program) -> int | None:
    """The first size of the inputs where all tensor inputs have the same fixed one; None where it may vary."""
    values = [node.meta.get("val") for node in program.inputs()]
    sizes = [v.shape[0] for v in values if isinstance(v, torch.Tensor) and v.dim()]
    return int(sizes[0]) if sizes and all(isinstance(s, int) and s == sizes[0] for s in sizes) else None


def examples(inputs: Any) -> int:
    """How many examples a batch holds: the first size of its first tensor, 1 for one without any."""
    sizes = (len(v) for v in pytree.tree_leaves(inputs) if isinstance(v, torch.Tensor) and v.dim())
    return next(sizes, 1)


def validation_batches(data: Data, count: int, batch_size: int) -> Iterator[tuple[Any, ...]]:
    """Yield the inputs of batches of the validation split until there were ``count`` examples, or all that there are."""
    seen = 0
    for args, _ in data.batches("validation", batch_size=batch_size):
        yield args
        seen += examples(args)
        if seen >= count:
            return


def cut(leaves: list[Any], size: int) -> Iterator[list[Any]]:
    """Yield the tensors in batches of ``size``, the last filled up with its last example, and numbers as they are."""
    count = examples(leaves)
    for start in range(0, count, size):
        rows = torch.arange(start, start + size).clamp(max=count - 1)
        yield [leaf[rows] if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]


def in_batches(run: Callable[..., Any], size: int | None) -> Callable[..., Any]:
    """``run`` as a function of any number of examples, in batches of ``size``; itself if ``size`` is None.

    The first dim of every input and output is taken for the batch. Outputs become tensors.
    """
    if size is None:
        return run

    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        parts = []
        for batch in cut(leaves, size):
            some, named = pytree.tree_unflatten(batch, spec)
            parts.append(run(*some, **named))
        count = examples(leaves)
        return pytree.tree_map(lambda *same: torch.cat([torch.as_tensor(v) for v in same])[:count], *parts)

    return call
