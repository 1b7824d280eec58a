"""How good a variant of a program is on the validation split: its metric, and the SQNR of its outputs."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.errors import DataError
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import sqnr
from fxopt.passes.common.calibration_batches import fitting_batches
from fxopt.workload import Data, Workload
from fxopt.workload.batching import fixed_batch, in_batches

_JUDGED = 32
"""Validation examples that a signal-to-noise ratio is taken over."""


class Judge:
    """Holds variants of one program against it. Raises DataError without usable data."""

    def __init__(self, program: Program, workload: Workload | None, who: str) -> None:
        if workload is None:
            raise DataError(f"{who} needs data: run it with a workload")
        self.program = program
        self.data: Data = workload.need_data(who)
        args, _ = next(iter(self.data.batches("validation", batch_size=_JUDGED)))
        spec = pytree.tree_structure((program.args, program.kwargs))
        self._inputs = [pytree.tree_unflatten(leaves, spec) for leaves in fitting_batches(program, args)]

    def sqnr(self, program: Program) -> float:
        """Signal-to-noise ratio in dB of a variant's outputs, over validation examples; inf if they are equal."""
        got = [_outputs(program, inputs) for inputs in self._inputs]
        return min(sqnr(want, found) for want, found in zip(self._wanted, got, strict=True))

    def metric(self, program: Program) -> float:
        """The workload's metric of a variant on the validation split."""
        return self.data.evaluate(in_batches(program, fixed_batch(program)), "validation")

    @functools.cached_property
    def _wanted(self) -> list[list[Any]]:
        return [_outputs(self.program, inputs) for inputs in self._inputs]


def _outputs(program: Program, inputs: Any) -> list[Any]:
    args, kwargs = inputs
    with torch.no_grad():
        return pytree.tree_leaves(program(*args, **kwargs))
