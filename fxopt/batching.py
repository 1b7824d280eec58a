"""Data in batches of any size through a program that takes one size alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.program import Program


def fixed_batch(program: Program) -> int | None:
    """The first size of the inputs where all tensor inputs have the same fixed one; None where it may vary."""
    values = [node.meta.get("val") for node in program.inputs()]
    sizes = [v.shape[0] for v in values if isinstance(v, torch.Tensor) and v.dim()]
    return int(sizes[0]) if sizes and all(isinstance(s, int) and s == sizes[0] for s in sizes) else None


def in_batches(run: Callable[..., Any], size: int | None) -> Callable[..., Any]:
    """``run`` as a function of any number of examples: cut into batches of ``size``, the last one filled up.

    The first dim of every input and output is taken for the batch; outputs become tensors. ``run`` itself if ``size`` is
    None.
    """
    if size is None:
        return run

    def call(*args: Any) -> Any:
        leaves, spec = pytree.tree_flatten(args)
        count = len(leaves[0])
        parts = []
        for start in range(0, count, size):
            rows = torch.arange(start, start + size).clamp(max=count - 1)
            parts.append(run(*pytree.tree_unflatten([leaf[rows] for leaf in leaves], spec)))
        return pytree.tree_map(lambda *same: torch.cat([torch.as_tensor(v) for v in same])[:count], *parts)

    return call
