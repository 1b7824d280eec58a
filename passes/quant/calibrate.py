"""Calibration: run example batches through the graph and observe the values that will be quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from fxopt.errors import DataError
from fxopt.ir.memory_format import channels_last, runs_in_any_layout
from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.passes.common.calibration_batches import fitting_batches
from fxopt.passes.quant.observers import OBSERVERS, Calibration, Observer
from fxopt.support.progress import progress_bar
from fxopt.workload.batching import examples

Watching = Mapping[fx.Node, Callable[[torch.Tensor], None]]
"""What is called with every value of a node, as the batches run."""


class _Observe(fx.Interpreter):
    """Runs the graph node by node, frees each value after its last use, and passes the wanted ones to their observers."""

    def __init__(self, program: Program, observers: dict[fx.Node, Observer], also: Watching) -> None:
        super().__init__(program.module)
        self._program, self._observers, self._also = program, observers, also

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        observer = self._observers.get(n)
        if observer is not None and not observer.see(value):
            raise DataError(
                "calibration met NaN or infinity",
                node=self._program.describe(n),
                way_out="look at the images, or at the layers before this one",
            )
        if (watch := self._also.get(n)) is not None:
            watch(value)
        return value


def calibrate(
    program: Program,
    batches: Iterable[tuple[Any, ...]],
    wanted: Mapping[fx.Node, fx.Node],
    *,
    calibration: Calibration = "min_max",
    images: int | None = None,
    also: Watching = MappingProxyType({}),
    device: str = "cpu",
) -> dict[fx.Node, Observer]:
    """Observe nodes over batches of positional arguments, run on ``device``; memory does not grow with their number.

    ``wanted`` maps each node to the one whose observer sees it, often itself; the observers are by that one.
    ``also`` has further functions to call with the values of nodes.

    Reports a skip for a node that had the same value everywhere, and for batches that held fewer examples than
    ``images``. Raises DataError for no batch, a shape or dtype that the program does not take, or values that are not
    finite.
    """
    observers = {owner: OBSERVERS[calibration]() for owner in wanted.values()}
    seeing = {node: observers[owner] for node, owner in wanted.items()}
    seen, laid = 0, channels_last if runs_in_any_layout(program) else list
    with torch.no_grad(), placed(program, device), progress_bar("calibrating", images) as advance:
        for args in batches:
            for leaves in fitting_batches(program, args):
                _Observe(program, seeing, also).run(*laid(leaves), enable_io_processing=False)
            seen += examples(args)
            advance(examples(args))
    if not seen:
        raise DataError("the workload gave no calibration batch; its Data.batches('train', …) is empty")
    if images is not None and seen < images:
        program.skip(
            program.inputs()[0],
            f"calibrated with {seen} images, {images} were asked for: the training split of the workload has no more",
        )
    for node, observer in observers.items():
        if observer.lowest == observer.highest:
            program.skip(
                node,
                f"calibration saw nothing but {observer.lowest:g} here, so its range is a guess; "
                "look at the images, or at the layers before it",
            )
    return observers
