"""The largest magnitude of each channel of a linear's input, over the calibration images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.errors import DataError
from fxopt.ir.program import Program
from fxopt.numerics.float64 import widen
from fxopt.passes.common.calibration_batches import fitting_batches


class _Watch(fx.Interpreter):
    """Runs the graph, frees each value after its last use, and keeps the peaks of the wanted ones."""

    def __init__(self, program: Program, peaks: dict[fx.Node, torch.Tensor | None]) -> None:
        super().__init__(program.module)
        self._program, self._peaks = program, peaks

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._peaks and value.numel():
            peak = value.abs().reshape(-1, value.shape[-1]).amax(0).double()
            if not bool(peak.isfinite().all()):
                raise DataError(
                    "calibration met NaN or infinity",
                    node=self._program.describe(n),
                    way_out="look at the images, or at the layers before this one",
                )
            before = self._peaks[n]
            self._peaks[n] = peak if before is None else torch.maximum(before, peak)
        return value


def channel_peaks(
    program: Program, batches: Iterable[tuple[Any, ...]], wanted: Iterable[fx.Node]
) -> dict[fx.Node, torch.Tensor]:
    """max|X_j| of every channel j, the last dim, of the ``wanted`` values: float64 ``[channels]``, in constant memory.

    The batches are in the precision of the model; a program that was widened to float64 is given them in float64.
    Raises DataError for no batch, a shape or dtype that the program does not take, or values that are not finite.
    """
    peaks: dict[fx.Node, torch.Tensor | None] = dict.fromkeys(wanted)
    wide = any(getattr(node.meta["val"], "dtype", None) == torch.float64 for node in program.inputs())
    with torch.no_grad():
        for args in batches:
            for leaves in fitting_batches(program, pytree.tree_map(widen, args) if wide else args):
                _Watch(program, peaks).run(*leaves, enable_io_processing=False)
    found = {node: peak for node, peak in peaks.items() if peak is not None}
    if len(found) < len(peaks):
        raise DataError("the workload gave no calibration image; its Data.batches('train', …) is empty")
    return found
