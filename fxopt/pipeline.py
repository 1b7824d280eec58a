"""The pipeline: passes in the order written, watchers around each, and what each one did.

Nothing a pass says about itself is believed: whether it changed something, and what it cost or saved, is computed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fxopt import registry
from fxopt.backend import Backend
from fxopt.cost import Cost, cost
from fxopt.errors import FxoptError, PassError
from fxopt.pass_base import Pass, make
from fxopt.program import Context, Program, Skip
from fxopt.shapes import derive_shapes
from fxopt.spec import parse_calls
from fxopt.target import Target
from fxopt.workload import Workload


@dataclass
class StepResult:
    """What one step did. Watchers put their findings into ``findings``: ``error``, ``sqnr_db``, ``metric`` …"""

    text: str
    kind: str
    part_of: str | None = None
    changed: bool = False
    skips: list[Skip] = field(default_factory=list)
    cost: Cost | None = None
    delta: Cost | None = None
    seconds: float = 0.0
    findings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A pass at its place in the pipeline."""

    pass_: Pass
    index: int
    total: int
    after: str
    part_of: str | None = None

    def __str__(self) -> str:
        place = f"step {self.index} of {self.total}" + (f", after {self.after}" if self.after else "")
        return f"{str(self.pass_)!r} ({place})"


Watcher = Callable[[Step, Program, StepResult], contextlib.AbstractContextManager[None]]
"""Entered before a pass runs and left after it; may add findings to the result or raise."""


@dataclass(frozen=True)
class Outcome:
    """The rewritten program and what every step did."""

    program: Program
    steps: tuple[StepResult, ...]
    before: Cost


@dataclass(frozen=True)
class Pipeline:
    """Passes, run in the order written. ``Pipeline.parse(str(p)) == p``."""

    passes: tuple[Pass, ...] = ()

    @classmethod
    def of(cls, *passes: Pass) -> Pipeline:
        """Make a pipeline of pass values."""
        return cls(passes)

    @classmethod
    def parse(cls, text: str | Iterable[str]) -> Pipeline:
        """Read ``fold_batch_norm, quantize(scheme='int8')``, or a list of such. Raises UsageError."""
        parts = [text] if isinstance(text, str) else list(text)
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
    ) -> Outcome:
        """Run the passes over a copy of ``program``, which stays as it is.

        ``watchers`` defaults to verification. Raises PassError with the pass and its place; the copy is then dropped.
        """
        if watchers is None:
            from fxopt.verify import Verify

            watchers = (Verify(),)
        work = program.copy()
        work.context = Context(workload or program.context.workload, target or program.context.target, backend)
        leaves = [(leaf, str(p) if leaf is not p else None) for p in self.passes for leaf in p.steps()]
        before = last = cost(work)
        results: list[StepResult] = []
        for i, (leaf, part_of) in enumerate(leaves, 1):
            step = Step(leaf, i, len(leaves), results[-1].text if results else "", part_of)
            result = run_step(step, work, watchers)
            result.delta, last = (result.cost - last, result.cost) if result.cost else (None, last)
            results.append(result)
        work.context = program.context
        return Outcome(work, tuple(results), before)


def run_step(step: Step, program: Program, watchers: Sequence[Watcher]) -> StepResult:
    """Run one pass over ``program`` in place, tidy up behind it, and compute what it did."""
    result = StepResult(str(step.pass_), step.pass_.kind, step.part_of)
    program.skips = []
    state = _state(program)
    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        for watcher in watchers:
            stack.enter_context(watcher(step, program, result))
        start = time.perf_counter()
        apply(step, program)
        result.seconds = time.perf_counter() - start
        result.changed = _differs(state, _state(program))
        result.skips = program.skips
        result.cost = cost(program)
        if result.changed:
            program.history = (*program.history, result.text)
    return result


def apply(step: Step, program: Program) -> None:
    """Run the pass, then what every pass would have to do: drop dead code and unused weights, lint, derive shapes."""
    try:
        step.pass_.run(program)
        tidy(program)
        derive_shapes(program)
    except PassError as error:
        raise type(error)(f"in {step}: {error}") from error
    except (FxoptError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        raise PassError(
            f"in {step}: {type(error).__name__}: {error}\n"
            "  Pass developer: guard the node this came from, or decline it with program.skip(node, reason)"
        ) from error


def tidy(program: Program) -> None:
    """Drop nodes and weights that nothing uses any more, check the graph's form and recompile it."""
    program.graph.eliminate_dead_code()
    program.graph.lint()
    used = program.tensors()
    for name, module in list(program.module.named_modules()):
        for store in (module._parameters, module._buffers):
            for leaf in list(store):
                if (f"{name}.{leaf}" if name else leaf) not in used:
                    del store[leaf]
    program.module.delete_all_unused_submodules()
    program.module.recompile()


_State = tuple[str, dict[str, torch.Tensor]]


def _state(program: Program) -> _State:
    return str(program.graph), {name: t.detach().clone() for name, t in program.tensors().items()}


def _differs(a: _State, b: _State) -> bool:
    if a[0] != b[0] or a[1].keys() != b[1].keys():
        return True
    return any(x.dtype != b[1][k].dtype or not _same(x, b[1][k]) for k, x in a[1].items())


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
