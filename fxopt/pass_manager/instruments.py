"""Watchers a user turns on: print or save the program after a pass. Verification is in :mod:`fxopt.pass_manager.verify`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from torch.utils import _pytree as pytree

from fxopt import registry
from fxopt.errors import UnknownNameError, UsageError
from fxopt.ir.placement import placed
from fxopt.ir.program import Program
from fxopt.numerics.compute_device import device_key
from fxopt.numerics.error_metrics import sqnr
from fxopt.numerics.execute import untouched
from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.step import Step, StepResult, Watcher
from fxopt.support.code_stamp import code_stamp
from fxopt.workload import Data
from fxopt.workload.batching import fixed_batch, in_batches
from fxopt.workload.data_reads import whole_split
from fxopt.workload.value_key import Unkeyed


def print_after(names: list[str], console: Console) -> Watcher:
    """Print the program as text after the passes of these names; ``all`` stands for every pass.

    Raises UnknownNameError for a name that is no pass.
    """
    known = registry.names("pass")
    for name in names:
        if name not in ("all", *known):
            raise UnknownNameError("pass", name, [*known, "all"])

    @contextlib.contextmanager
    def watch(step: Step, program: Program, result: StepResult) -> Iterator[None]:
        yield
        if "all" in names or step.pass_.name in names:
            console.print(f"-- after {step}", markup=False)
            console.print(program.text(source=True), markup=False, highlight=False, soft_wrap=True)

    return watch


def dump(folder: Path) -> Watcher:
    """Save the program before the first pass and after each as numbered text files in ``folder``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from None

    def write(number: int, name: str, program: Program) -> None:
        (folder / f"{number:02}_{name}.txt").write_text(program.text(source=True) + "\n")

    @contextlib.contextmanager
    def watch(step: Step, program: Program, result: StepResult) -> Iterator[None]:
        if step.index == 1:
            write(0, "captured", program)
        yield
        write(step.index, step.pass_.name, program)

    return watch


class MetricWatcher:
    """Records the metric of an approximate step on the validation split, and the SQNR in dB.

    The SQNR is over one batch, against the program before the step, instead of that on random inputs, which
    are outside the range that a calibration on real data saw.
    """

    def __init__(self, data: Data, device: str = "cpu") -> None:
        """``device`` is where programs are evaluated, as torch spells it."""
        self._data, self._device = data, device
        self._key: str | None = None

    def cache_key(self, pass_: Pass) -> str | None:
        """The validation split by content, for a pass that it is used for; None where that has no digest."""
        if pass_.kind != "approx":
            return "not asked"
        if self._key is None:
            with contextlib.suppress(Unkeyed):
                self._key = f"{whole_split(self._data, 'validation')} {code_stamp(__name__)} {device_key(self._device)}"
        return self._key

    @contextlib.contextmanager
    def __call__(self, step: Step, program: Program, result: StepResult) -> Iterator[None]:
        """Compare the program before and after the pass."""
        result.on_data = step.pass_.kind == "approx"
        yield
        data = self._data
        if result.on_data and result.changed:
            size = fixed_batch(program)
            (batch, _) = next(iter(data.batches("validation", batch_size=32)))
            leaves, positional = pytree.tree_leaves(batch), len(pytree.tree_leaves(program.args))
            if len(leaves) == positional:
                leaves = [*leaves, *pytree.tree_leaves(program.kwargs)]
            spec = pytree.tree_structure((program.args, program.kwargs))
            # keywords are given by position, or are those of the example
            args, kwargs = pytree.tree_unflatten(leaves, spec)
            with (
                placed(step.before, self._device),
                placed(program, self._device),
                untouched(step.before),
                untouched(program),
            ):
                want, got = (pytree.tree_leaves(in_batches(p, size)(*args, **kwargs)) for p in (step.before, program))
                result.findings.sqnr_db = sqnr(want, got)
                result.findings.metric = data.evaluate(in_batches(program, size), "validation")
