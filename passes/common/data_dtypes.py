"""Data in the dtypes of a program."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.ir.program import Program
from fxopt.workload import Data, Workload
from fxopt.workload.workload import Args, Split


def with_dtypes_of(program: Program, workload: Workload | None) -> Workload | None:
    """The workload with inputs of the program's own dtypes: a proof runs the pass on the program in float64."""
    if workload is None or workload.data is None:
        return workload
    dtypes = [getattr(node.meta.get("val"), "dtype", None) for node in program.inputs()]
    return dataclasses.replace(workload, data=_Cast(workload.data, dtypes))


class _Cast:
    """Data whose floating inputs have other dtypes."""

    def __init__(self, data: Data, dtypes: Sequence[torch.dtype | None]) -> None:
        self._data, self._dtypes = data, dtypes
        self.metric, self.evaluate = data.metric, data.evaluate
        self.loss: Any = getattr(data, "loss", None)  # data without labels have none

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """The same batches."""
        for args, target in self._data.batches(split, batch_size=batch_size, seed=seed):
            leaves, spec = pytree.tree_flatten(args)
            cast = [
                leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and dtype else leaf
                for leaf, dtype in zip(leaves, self._dtypes, strict=False)
            ]
            yield pytree.tree_unflatten([*cast, *leaves[len(cast) :]], spec), target
