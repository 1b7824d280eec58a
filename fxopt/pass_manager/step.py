"""One step of a pipeline: a pass run in place, clean-up after it, and what it changed and cost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from fxopt.errors import FxoptError, PassCrashError, PassError, text_of
from fxopt.ir.cost import Cost, cost
from fxopt.ir.dead_code import drop_unused, remove_dead
from fxopt.ir.op_table import family
from fxopt.ir.program import Choice, Measurement, Program, Skip
from fxopt.ir.shape_inference import derive_shapes
from fxopt.numerics.compute_device import failure_of
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.invariants import check_arity, check_calls, check_kept, lost_types, same_tensor
from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.shared_weights import SharedWeights


@dataclass
class Findings:
    """Findings of watchers on one step; None where none looked.

    ``error``: largest relative error of an exact step, in float64.
    ``sqnr_db``: SQNR of the outputs after an approximate step, in dB; infinite where they are equal.
    ``metric``: the workload's metric on the validation split after an approximate step.
    ``vacuous``: why comparing the outputs proves nothing.
    ``proof``: how an exact step was proved, ``local`` or ``end to end``; ``own precision`` and ``none`` are no proof.
    ``regions``: how many rewritten regions a local proof had.
    ``tolerance``: relative error allowed to an exact step in float64.
    ``stored_tolerance``: relative error allowed to the stored program, which is compared with the replay in float64 by its
    ``weights``, or where these are not unique by the ``values`` computed with them: ``stored`` says which.
    """

    error: float | None = None
    sqnr_db: float | None = None
    metric: float | None = None
    vacuous: str | None = None
    proof: str | None = None
    regions: int | None = None
    tolerance: float | None = None
    stored: Literal["weights", "values"] | None = None
    stored_tolerance: float | None = None


@dataclass
class StepResult:
    """The result of one step; ``findings`` are those of watchers.

    The pass itself reports nodes left alone by ``program.skip``, choices by ``program.chose``, and measurements of parts of
    the program by ``program.measured``.
    """

    text: str
    kind: str
    part_of: str | None = None
    changed: bool = False
    quantizes: bool = False
    """Whether there are more ops after it that quantize or dequantize."""
    skips: list[Skip] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    cost: Cost | None = None
    delta: Cost | None = None
    seconds: float = 0.0
    findings: Findings = field(default_factory=Findings)
    on_data: bool = False
    """Whether a watcher measures the SQNR on data; then none has to on random inputs."""
    cached: bool = False
    """Whether it was taken from a cache; ``seconds`` are those that it took when it was made."""

    def effect(self) -> str:
        """What it did to the outputs, as it was verified."""
        found = self.findings
        if not self.changed:
            return "changed nothing"
        how = found.proof if found.proof in ("own precision", "none") else "proved"
        parts = [f"{how}, off by {found.error:.1e}"] if found.error is not None else []
        parts += [f"SQNR {found.sqnr_db:.1f} dB"] if found.sqnr_db is not None else []
        parts += [f"metric {found.metric:.4f}"] if found.metric is not None else []
        return ", ".join(parts) or "changed"

    def __str__(self) -> str:
        return f"{self.text}: {self.effect()}, {'cached' if self.cached else f'{self.seconds:.1f} s'}"


@dataclass(frozen=True)
class Step:
    """A pass at its place in the pipeline, with the program before it, whose weights it shares, its cost, and the context."""

    pass_: Pass
    index: int
    total: int
    after: str
    before: Program
    context: Context
    shared: SharedWeights
    cost: Cost

    def __str__(self) -> str:
        place = f"step {self.index} of {self.total}" + (f", after {self.after}" if self.after else "")
        return f"{str(self.pass_)!r} ({place})"


Watcher = Callable[[Step, Program, StepResult], contextlib.AbstractContextManager[None]]
"""Entered before a pass runs and left after it; may add findings to the result or raise."""


def run_step(step: Step, program: Program, watchers: Sequence[Watcher]) -> StepResult:
    """Run one pass over ``program`` in place, clean up after it, and compute its result."""
    result = StepResult(str(step.pass_), step.pass_.kind)
    program.skips, program.choices, program.measurements = [], [], []
    with located(step), contextlib.ExitStack() as stack:
        for watcher in watchers:
            stack.enter_context(watcher(step, program, result))
        start = time.perf_counter()
        apply(step, program)
        with located(step, HINT):
            step.shared.check(step.before)
            check_kept(step.before, program)
            result.changed = differs(step.before, program)
            if (result.changed and _reshaped(step.before, program)) or lost_types(step.before, program):
                derive_shapes(program)
            if result.changed:
                program.history = (*program.history, result.text)
            result.cost = cost(program) if result.changed else step.cost
            result.quantizes = result.changed and _codes(program) > _codes(step.before)
        result.seconds = time.perf_counter() - start
        result.skips, result.choices = list(dict.fromkeys(program.skips)), program.choices
        result.measurements = program.measurements
    return result


def _codes(program: Program) -> int:
    return sum(family(node) == "quant" for node in program.graph.nodes)


def apply(step: Step, program: Program) -> None:
    """Run the pass, then the common clean-up: drop dead code and unused weights, lint."""
    program.claims = {}
    known = {node.target for node in program.graph.nodes if node.op == "call_function"}
    with located(step, HINT):
        with _without_history(program):
            step.pass_.run(program, step.context)
        check_calls(program, known)
        tidy(program)


@contextlib.contextmanager
def _without_history(program: Program) -> Iterator[None]:
    """Equal programs give equal results, whatever made them: a pass does not see how the program came about."""
    history, program.history = program.history, ()
    try:
        yield
    finally:
        program.history = (*history, *program.history)


HINT = "Pass developer: guard the node this came from, or decline it with program.skip(node, reason)"
"""The way out for the author of a pass, after any error in it."""


@contextlib.contextmanager
def located(where: object, hint: str | None = None) -> Iterator[None]:
    """Add the pass and its place in the pipeline to any error; one that is no FxoptError becomes one."""
    try:
        yield
    except MemoryError:
        raise
    except (torch.OutOfMemoryError, torch.AcceleratorError) as error:
        raise failure_of(error, str(where)) from error
    except (Exception, SystemExit) as error:  # a pass that calls sys.exit() must not end the program that runs it
        if isinstance(error, FxoptError) and type(error).__str__ is FxoptError.__str__:
            error.step = error.step or str(where)
            raise
        failed = PassError if isinstance(error, FxoptError) else PassCrashError
        raise failed(f"{type(error).__name__}: {text_of(error)}", step=str(where), way_out=hint) from error


def tidy(program: Program) -> None:
    """Drop unused nodes and weights, lint the graph and recompile it."""
    check_arity(program)
    remove_dead(program)
    program.graph.lint()
    drop_unused(program.module, set(program.tensors()))
    program.module.recompile()


def _reshaped(before: Program, after: Program) -> bool:
    """Whether the graphs differ, or the type of any weight; other values of the same type have the same shapes."""
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
