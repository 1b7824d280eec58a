"""How good a variant of a program is on the validation split: its metric, and the SQNR of its outputs."""

from __future__ import annotations

import functools
from typing import Any

from torch.utils import _pytree as pytree

from fxopt.errors import DataError
from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import sqnr
from fxopt.passes.common.calibration_batches import fitting_batches
from fxopt.workload import Data, Workload
from fxopt.workload.batching import fixed_batch, in_batches

_JUDGED = 32
"""Validation examples that a signal-to-noise ratio is taken over."""


class Judge:
    """Holds variants of one program against it. Raises DataError without usable data."""

    def __init__(self, program: Program, workload: Workload | None, who: str, device: str = "cpu") -> None:
        """``device`` is where variants run, as torch spells it."""
        if workload is None:
            raise DataError(f"{who} needs data: run it with a workload")
        self.program, self._device = program, device
        self.data: Data = workload.need_data(who)
        args, _ = next(iter(self.data.batches("validation", batch_size=_JUDGED)))
        spec = pytree.tree_structure((program.args, program.kwargs))
        self._inputs = [pytree.tree_unflatten(leaves, spec) for leaves in fitting_batches(program, args)]

    def sqnr(self, program: Program) -> float:
        """Signal-to-noise ratio in dB of a variant's outputs, over validation examples; inf if they are equal."""
        got = self._outputs(program)
        return min(sqnr(want, found) for want, found in zip(self._wanted, got, strict=True))

    def metric(self, program: Program) -> float:
        """The workload's metric of a variant on the validation split."""
        with placed(program, self._device):
            return self.data.evaluate(in_batches(program, fixed_batch(program)), "validation")

    @functools.cached_property
    def _wanted(self) -> list[list[Any]]:
        return self._outputs(self.program)

    def _outputs(self, program: Program) -> list[list[Any]]:
        with placed(program, self._device):
            return [pytree.tree_leaves(program(*args, **kwargs)) for args, kwargs in self._inputs]
