"""Data in batches of any size for a program with a fixed batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.program import Program


def fixed_batch(program: Program) -> int | None:
    """The first size of the inputs where all tensor inputs have the same fixed one; None where it may vary."""
    values = [node.meta.get("val") for node in program.inputs()]
    sizes = [v.shape[0] for v in values if isinstance(v, torch.Tensor) and v.dim()]
    return int(sizes[0]) if sizes and all(isinstance(s, int) and s == sizes[0] for s in sizes) else None


def has_rows(node: fx.Node) -> bool:
    """Whether the first dim of an input of a program is dynamic."""
    value = node.meta["val"]
    return isinstance(value, torch.Tensor) and value.dim() > 0 and not isinstance(value.shape[0], int)


def fits(node: fx.Node, leaf: Any) -> bool:
    """Whether a value can be given for an input of a program: a tensor of its dtype and fixed sizes, or a number for a number."""
    want = node.meta["val"]
    if not isinstance(want, torch.Tensor) or not isinstance(leaf, torch.Tensor):
        return not isinstance(want, torch.Tensor) and not isinstance(leaf, torch.Tensor)
    if leaf.dtype != want.dtype or leaf.dim() != want.dim():
        return False
    return all(not isinstance(w, int) or w == g for w, g in zip(want.shape, leaf.shape, strict=True))


def examples(inputs: Any) -> int:
    """How many examples a batch holds: the first size of its first tensor, 1 for one without any."""
    sizes = (len(v) for v in pytree.tree_leaves(inputs) if isinstance(v, torch.Tensor) and v.dim())
    return next(sizes, 1)


def cut(leaves: list[Any], size: int) -> Iterator[list[Any]]:
    """Yield the tensors in batches of ``size``, the last padded with its last example, and numbers unchanged."""
    count = examples(leaves)
    for start in range(0, count, size):
        rows = [min(row, count - 1) for row in range(start, start + size)]
        yield [
            leaf[torch.tensor(rows, device=leaf.device)] if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves
        ]


def in_batches(run: Callable[..., Any], size: int | None) -> Callable[..., Any]:
    """``run`` as a function of any number of examples, in batches of ``size``; in one batch if ``size`` is None.

    Where a device's memory is full, a batch of any number of examples is run in halves, and these in halves again. The first
    dim of every input and output is taken for the batch. Outputs become tensors.
    """
    if size is None:
        return _in_halves(run)

    def call(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = pytree.tree_flatten((args, kwargs))
        parts = []
        for batch in cut(leaves, size):
            some, named = pytree.tree_unflatten(batch, spec)
            parts.append(run(*some, **named))
        count = examples(leaves)
        return pytree.tree_map(lambda *same: torch.cat([torch.as_tensor(v) for v in same])[:count], *parts)

    return call


def _in_halves(run: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        count = examples((args, kwargs))
        try:
            return run(*args, **kwargs)
        except torch.OutOfMemoryError:
            if count < 2:
                raise
        return in_batches(call, -(-count // 2))(*args, **kwargs)

    return call
