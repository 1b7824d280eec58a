"""Calibration examples as flat inputs that a program takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fxopt.errors import DataError
from fxopt.passes.quant.calibrate import fitting_batches
from fxopt.program import Program


def calibration_batches(program: Program, samples: int, who: str) -> Iterator[list[Any]]:
    """Yield the flat inputs of batches with ``samples`` training examples or more, of the size that the program takes.

    Raises DataError in the name of ``who`` where there are none, or where they do not fit.
    """
    workload = program.context.workload
    if workload is None:
        raise DataError(f"{who} needs data: run the pipeline with workload=…")
    seen = False
    for args in workload.calibration(samples, who):
        for leaves in fitting_batches(program, args):
            seen = True
            yield leaves
    if not seen:
        raise DataError(f"{who}: the workload {workload.name!r} gave no calibration batch")
