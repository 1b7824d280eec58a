"""The pipeline: passes in the order written, watchers around each, and the result of each.

Nothing a pass says about itself is believed: whether it changed something, and what it cost or saved, is computed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fxopt import registry
from fxopt.backend import Backend
from fxopt.errors import PassError, UsageError
from fxopt.ir.cost import Cost
from fxopt.ir.mapped_weights import mapped_again
from fxopt.ir.program import Program
from fxopt.numerics.compute_device import find_compute_device
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.line import Line
from fxopt.pass_manager.pass_base import Pass, make
from fxopt.pass_manager.run_cached import run_cached
from fxopt.pass_manager.step import HINT, StepResult, Watcher, located
from fxopt.pass_manager.step_cache import StepCache
from fxopt.support.html import fold, table
from fxopt.support.spec import parse_calls
from fxopt.target import Target
from fxopt.workload import Workload


@dataclass(frozen=True)
class Outcome:
    """The rewritten program and the result of every step."""

    program: Program
    steps: tuple[StepResult, ...]
    before: Cost

    def __repr__(self) -> str:
        return "\n".join([f"Outcome {self.program.signature()}", *(f"  {step}" for step in self.steps)])

    def _repr_html_(self) -> str:
        """The steps as a table for a notebook, with what they left alone, and the graph."""
        rows = [
            (s.part_of or "", s.text, s.effect(), f"{s.delta.macs:+,}" if s.delta else "", len(s.skips) or "")
            for s in self.steps
        ]
        left = [f"{step.text}: {skip}" for step in self.steps for skip in step.skips]
        folds = fold(f"{len(left)} places left alone", "\n".join(left)) if left else ""
        return table(("part of", "pass", "outputs", "MACs", "left alone"), rows) + folds + self.program._repr_html_()


@dataclass(frozen=True)
class Pipeline:
    """Passes, run in the order written. ``Pipeline.parse(str(p)) == p``. Raises UsageError for what is no pass."""

    passes: tuple[Pass, ...] = ()

    def __post_init__(self) -> None:
        for value in self.passes:
            if not isinstance(value, Pass):
                raise UsageError(
                    f"a pipeline is made of pass values such as fold_batch_norm(), got {value!r}",
                    way_out="names and text are read by Pipeline.parse",
                )

    @classmethod
    def of(cls, *passes: Pass) -> Pipeline:
        """Make a pipeline of pass values."""
        return cls(passes)

    @classmethod
    def parse(cls, text: str | Iterable[str]) -> Pipeline:
        """Read ``fold_batch_norm, quantize(scheme='int8')``, or a list of such. Raises UsageError."""
        parts = [text] if isinstance(text, str) else list(text) if isinstance(text, Iterable) else [None]
        if not all(isinstance(part, str) for part in parts):
            raise UsageError(
                f"a pipeline is read from text such as 'fold_batch_norm, quantize', or a list of texts; got {text!r}",
                way_out="make one of pass values by Pipeline.of",
            )
        calls = [call for part in parts for call in parse_calls(part)]
        return cls(tuple(make(registry.get("pass", name), options) for name, options in calls))

    def __str__(self) -> str:
        return ", ".join(map(str, self.passes))

    def run(
        self,
        program: Program,
        *,
        watchers: Sequence[Watcher] | None = None,
        workload: Workload | None = None,
        target: Target | None = None,
        backend: Backend | None = None,
        device: str = "cpu",
        cache: StepCache | None = None,
        told_at: int = logging.INFO,
    ) -> Outcome:
        """Run the passes over a copy of ``program``, which does not change.

        ``watchers`` defaults to verification and, where the workload has data, to the SQNR and metric of approximate passes on
        its validation split, as in a build. With a ``cache``, steps that were run before are taken from it, and the
        others put into it. ``device`` ("auto", "cpu", "cuda:1" …) is where passes train, calibrate and evaluate; exact passes are
        proved on the CPU, in float64. Each step is logged by the logger ``fxopt``, at the level ``told_at``.

        Raises PassError with the pass and its step; another FxoptError that a
        pass raises keeps its type and gets the step too. The copy is then dropped. Raises DeviceError for a device that is
        not there.
        """
        where = find_compute_device(device)
        if watchers is None:
            from fxopt.pass_manager.instruments import MetricWatcher
            from fxopt.pass_manager.verify import Verify

            data = workload.data if workload is not None else None
            measured = callable(
                getattr(data, "evaluate", None)
            )  # data for calibration or training alone need not have it
            watchers = (*((MetricWatcher(data, where),) if data is not None and measured else ()), Verify())
        context = Context(workload, target, backend, program, where)
        leaves = [(leaf, str(p) if leaf is not p else None) for p in self.passes for leaf in _steps(p)]
        line = Line(
            [leaf for leaf, _ in leaves], tuple(watchers), context, program.copy(mapped_again(program)), told_at
        )
        before = last = line.cost_of(line.work)
        if cache is None:
            while line.left:
                line.run()
        else:
            run_cached(line, cache)
        for result, (_, part_of) in zip(line.results, leaves, strict=True):
            result.part_of = part_of
            result.delta, last = (result.cost - last, result.cost) if result.cost else (None, last)
        return Outcome(line.work, tuple(line.results), before)


def _steps(pass_: Pass) -> tuple[Pass, ...]:
    with located(repr(str(pass_)), HINT):
        steps = tuple(pass_.steps())
        if not all(isinstance(step, Pass) for step in steps):
            raise PassError(f"steps() must return passes, got {steps!r}")
    return steps
