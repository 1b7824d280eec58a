"""Calibration: run example batches through the graph and observe the values that will be quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.batching import cut, examples, fixed_batch
from fxopt.errors import DataError
from fxopt.memory_layout import channels_last, runs_in_any_layout
from fxopt.passes.quant.observers import OBSERVERS, Calibration, Observer
from fxopt.program import Program
from fxopt.progress import progress_bar
from fxopt.text import type_text

Watching = Mapping[fx.Node, Callable[[torch.Tensor], None]]
"""What is called with every value of a node, as the batches run."""


class _Observe(fx.Interpreter):
    """Runs the graph node by node, frees each value after its last use, and shows the wanted ones to their observers."""

    def __init__(self, program: Program, observers: dict[fx.Node, Observer], also: Watching) -> None:
        super().__init__(program.module)
        self._program, self._observers, self._also = program, observers, also

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        observer = self._observers.get(n)
        if observer is not None and not observer.see(value):
            raise DataError(
                f"calibration met NaN or infinity\n    {self._program.describe(n)}\n"
                "  look at the images, or at the layers before this one"
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
) -> dict[fx.Node, Observer]:
    """Observe nodes over batches of positional arguments; memory does not grow with their number.

    ``wanted`` gives for each node the one whose observer sees it, often itself; the observers are by that one.
    ``also`` is shown the values of its nodes too.

    Reports a skip for a node that had the same number everywhere, and for batches that held fewer examples than
    ``images``. Raises DataError for no batch, a shape or dtype that the program does not take, or values that are not
    finite.
    """
    observers = {owner: OBSERVERS[calibration]() for owner in wanted.values()}
    seeing = {node: observers[owner] for node, owner in wanted.items()}
    seen, laid = 0, channels_last if runs_in_any_layout(program) else list
    with torch.no_grad(), progress_bar("calibrating", images) as advance:
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


def fitting_batches(program: Program, args: tuple[Any, ...]) -> Iterable[list[Any]]:
    """Flat inputs as the program takes them: checked, and in batches of another size where its own is fixed."""
    leaves = pytree.tree_leaves((args, {}))
    nodes = program.inputs()
    got = ", ".join(f"{v.dtype}{list(v.shape)}".replace("torch.", "") for v in leaves if isinstance(v, torch.Tensor))
    if len(leaves) != len(nodes):
        raise DataError(f"calibration gives {len(leaves)} input(s) ({got}), the program takes {program.signature()}")
    for node, leaf in zip(nodes, leaves, strict=True):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not bool(leaf.isfinite().all()):
            raise DataError(f"calibration gives NaN or infinity in input {node.target!r}; clean the data")
    size = fixed_batch(program)
    count = len(leaves[0]) if isinstance(leaves[0], torch.Tensor) and leaves[0].dim() else None
    if size and count != size and all(isinstance(v, torch.Tensor) and v.dim() and len(v) == count for v in leaves):
        for batch in cut(leaves, size):
            yield from fitting_batches(program, tuple(batch))
        return
    for node, leaf in zip(nodes, leaves, strict=True):
        want = node.meta["val"]
        if isinstance(want, torch.Tensor) and not _fits(want, leaf):
            raise DataError(
                f"calibration gives {got} for input {node.target!r}, "
                f"the program takes {type_text(want, program.dims())}"
            )
    yield leaves


def _fits(want: torch.Tensor, got: Any) -> bool:
    if not isinstance(got, torch.Tensor) or got.dtype != want.dtype or got.dim() != want.dim():
        return False
    return all(not isinstance(w, int) or w == g for w, g in zip(want.shape, got.shape, strict=True))
