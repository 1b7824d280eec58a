"""The pipeline: passes in the order written, watchers around each, and what each one did.

Nothing a pass says about itself is believed: whether it changed something, and what it cost or saved, is computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fxopt import registry
from fxopt.backend import Backend
from fxopt.cost import Cost, cost
from fxopt.dead_code import drop_unused, remove_dead
from fxopt.errors import FxoptError, PassCrashError, PassError, UsageError, text_of
from fxopt.pass_base import Pass, make
from fxopt.program import Choice, Context, Program, Skip
from fxopt.rules import check_arity, check_calls, check_kept, lost_types, same_tensor
from fxopt.shapes import derive_shapes
from fxopt.spec import parse_calls
from fxopt.target import Target
from fxopt.workload import Workload


@dataclass
class StepResult:
    """What one step did. Watchers put their findings into ``findings``: ``error``, ``sqnr_db``, ``metric`` …

    The pass itself tells what it left alone, by ``program.skip``, and what it chose, by ``program.chose``.
    """

    text: str
    kind: str
    part_of: str | None = None
    changed: bool = False
    skips: list[Skip] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    cost: Cost | None = None
    delta: Cost | None = None
    seconds: float = 0.0
    findings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A pass at its place in the pipeline, with a copy of the program as it was before."""

    pass_: Pass
    index: int
    total: int
    after: str
    before: Program

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
    """Passes, run in the order written. ``Pipeline.parse(str(p)) == p``. Raises UsageError for what is no pass."""

    passes: tuple[Pass, ...] = ()

    def __post_init__(self) -> None:
        for value in self.passes:
            if not isinstance(value, Pass):
                raise UsageError(
                    f"a pipeline is made of pass values such as fold_batch_norm(), got {value!r}\n"
                    "  names and text are read by Pipeline.parse"
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
                f"a pipeline is read from text such as 'fold_batch_norm, quantize', or a list of texts; got {text!r}\n"
                "  make one of pass values by Pipeline.of"
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
    ) -> Outcome:
        """Run the passes over a copy of ``program``, which stays as it is.

        ``watchers`` defaults to verification. Raises PassError with the pass and its place; another FxoptError that a
        pass raises keeps its type and is given the place too. The copy is then dropped.
        """
        if watchers is None:
            from fxopt.verify import Verify

            watchers = (Verify(),)
        work = program.copy()
        work.context = Context(workload or program.context.workload, target or program.context.target, backend, program)
        leaves = [(leaf, str(p) if leaf is not p else None) for p in self.passes for leaf in _steps(p)]
        before = last = cost(work)
        results: list[StepResult] = []
        for i, (leaf, part_of) in enumerate(leaves, 1):
            old = work.copy() if results else dataclasses.replace(program, context=work.context)
            step = Step(leaf, i, len(leaves), results[-1].text if results else "", old)
            result = run_step(step, work, watchers)
            result.part_of = part_of
            result.delta, last = (result.cost - last, result.cost) if result.cost else (None, last)
            results.append(result)
        work.context = program.context
        return Outcome(work, tuple(results), before)


def _steps(pass_: Pass) -> tuple[Pass, ...]:
    with _named(repr(str(pass_)), _HINT):
        steps = tuple(pass_.steps())
        if not all(isinstance(step, Pass) for step in steps):
            raise PassError(f"steps() must return passes, got {steps!r}")
    return steps


def run_step(step: Step, program: Program, watchers: Sequence[Watcher]) -> StepResult:
    """Run one pass over ``program`` in place, tidy up behind it, and compute what it did."""
    result = StepResult(str(step.pass_), step.pass_.kind)
    program.skips, program.choices = [], []
    with _named(step), contextlib.ExitStack() as stack:
        for watcher in watchers:
            stack.enter_context(watcher(step, program, result))
        start = time.perf_counter()
        apply(step, program)
        with _named(step, _HINT):
            check_kept(step.before, program)
            result.changed = differs(step.before, program)
            if (result.changed and _reshaped(step.before, program)) or lost_types(step.before, program):
                derive_shapes(program)
            if result.changed:
                program.history = (*program.history, result.text)
            result.cost = cost(program)
        result.seconds = time.perf_counter() - start
        result.skips, result.choices = program.skips, program.choices
    return result


def apply(step: Step, program: Program) -> None:
    """Run the pass, then what every pass would have to do: drop dead code and unused weights, lint."""
    program.claims = {}
    known = {node.target for node in program.graph.nodes if node.op == "call_function"}
    with _named(step, _HINT):
        step.pass_.run(program)
        check_calls(program, known)
        tidy(program)


_HINT = "\n  Pass developer: guard the node this came from, or decline it with program.skip(node, reason)"


@contextlib.contextmanager
def _named(where: object, hint: str = "") -> Iterator[None]:
    """Put the pass and its place before the message of whatever goes wrong, once; what is no FxoptError becomes one."""
    try:
        yield
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # a pass that calls sys.exit() must not end the program that runs it
        text = text_of(error)
        if isinstance(error, FxoptError):
            if str(where) not in text:
                error.args = (f"in {where}: {text}",)
            if str(where) in text_of(error):  # not so in a class with a __str__ of its own
                raise
        failed = PassError if isinstance(error, FxoptError) else PassCrashError
        raise failed(f"in {where}: {type(error).__name__}: {text}{hint}") from error


def tidy(program: Program) -> None:
    """Drop nodes and weights that nothing uses any more, check the graph's form and recompile it."""
    check_arity(program)
    remove_dead(program)
    program.graph.lint()
    drop_unused(program.module, set(program.tensors()))
    program.module.recompile()


def _reshaped(before: Program, after: Program) -> bool:
    """Whether the graphs differ, or the form of any weight; other numbers in the same form have the same shapes."""
    if str(before.graph) != str(after.graph):
        return True
    old, new = before.tensors(), after.tensors()
    return any(t.shape != new[name].shape or t.dtype != new[name].dtype for name, t in old.items())


def differs(before: Program, after: Program) -> bool:
    """Whether the graphs or any weight differ; a weight is compared by its bits, so an edit in place is seen."""
    if str(before.graph) != str(after.graph) or before.in_spec != after.in_spec or before.out_spec != after.out_spec:
        return True
    old, new = before.tensors(), after.tensors()
    return any(not same_tensor(tensor, new[name]) for name, tensor in old.items())
