"""What linears read over the calibration images, row by row, and the largest magnitude of each channel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.errors import DataError
from fxopt.ir.program import Program
from fxopt.numerics.float64 import widen
from fxopt.passes.common.calibration_batches import fitting_batches

See = Callable[[fx.Node, torch.Tensor], None]


class _Watch(fx.Interpreter):
    """Runs the graph, frees each value after its last use, and shows the wanted ones."""

    def __init__(self, program: Program, wanted: Collection[fx.Node], see: See) -> None:
        super().__init__(program.module)
        self._program, self._wanted, self._see = program, wanted, see

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._wanted and value.numel():
            if not bool(value.isfinite().all()):
                raise DataError(
                    "calibration met NaN or infinity",
                    node=self._program.describe(n),
                    way_out="look at the images, or at the layers before this one",
                )
            self._see(n, value.reshape(-1, value.shape[-1]))
        return value


def watch_rows(program: Program, batches: Iterable[tuple[Any, ...]], wanted: Collection[fx.Node], see: See) -> None:
    """Show ``see`` each batch of the ``wanted`` values as rows ``[n, channels]``, the last dim, in constant memory.

    The batches are in the precision of the model; a program that was widened to float64 is given them in float64.
    Raises DataError for no batch, a shape or dtype that the program does not take, or values that are not finite.
    """
    seen: set[fx.Node] = set()

    def note(node: fx.Node, rows: torch.Tensor) -> None:
        seen.add(node)
        see(node, rows)

    wide = any(getattr(node.meta["val"], "dtype", None) == torch.float64 for node in program.inputs())
    with torch.no_grad():
        for args in batches:
            for leaves in fitting_batches(program, pytree.tree_map(widen, args) if wide else args):
                _Watch(program, wanted, note).run(*leaves, enable_io_processing=False)
    if len(seen) < len(wanted):
        raise DataError("the workload gave no calibration image; its Data.batches('train', …) is empty")


def channel_peaks(
    program: Program, batches: Iterable[tuple[Any, ...]], wanted: Iterable[fx.Node]
) -> dict[fx.Node, torch.Tensor]:
    """max|X_j| of every channel j of the ``wanted`` values: float64 ``[channels]``. Raises as :func:`watch_rows`."""
    peaks: dict[fx.Node, torch.Tensor] = {}

    def see(node: fx.Node, rows: torch.Tensor) -> None:
        peak = rows.abs().amax(0).double()
        peaks[node] = torch.maximum(peaks.get(node, peak), peak)

    watch_rows(program, batches, set(wanted), see)
    return peaks
