"""Candidates for a build: each backend, with the programs that a recipe makes for it and its runtime options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fxopt.backend import Backend
from fxopt.driver.artifact_check import Fidelity
from fxopt.driver.plan import Plan
from fxopt.driver.report import Agreement
from fxopt.errors import DisagreementError, FxoptError, ResourceError, text_of
from fxopt.ir.program import Program
from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.pipeline import Outcome, Pipeline
from fxopt.pass_manager.step import Step, StepResult, Watcher
from fxopt.runtime.artifact import Artifact, load_for
from fxopt.runtime.isolated import fails_alone
from fxopt.runtime.timing import Timing
from fxopt.target import Target

Form = Literal["recipe", "float"]
"""The program of the whole recipe, or without the steps that quantize: integers are not always faster."""

_STARTING, _CALLS = 30.0, 20
"""Seconds that a process may take to load a candidate, and the ratio to eager that its first call may take."""
ROUNDED_DB = 20.0
"""Least SQNR in dB of a runtime that rounds a float program, where a metric decides: bf16 has 30 to 50, and below 20 an op is
wrong, not rounded."""


@dataclass
class Candidate:
    """A backend with its runtime options, the outcome of the recipe in one form, and the result.

    ``noise_db`` is the noise that its runtime may add to a float program, None for rounding of float32 alone.
    ``refused`` is the reason why it is out; the artifact and its agreement are set where it was built.
    """

    backend: Backend
    form: Form = "recipe"
    outcome: Outcome | None = None
    noise_db: float | None = None
    artifact: Artifact | None = None
    agreement: Agreement | None = None
    timing: Timing | None = None
    metric: float | None = None
    refused: str | None = None

    def __str__(self) -> str:
        return str(self.backend) + (", left in float" if self.form == "float" else "")


def candidates_of(
    backend: Backend, plan: Plan, program: Program, watchers: tuple[Watcher, ...], scratch: Path
) -> list[Candidate]:
    """Run the recipe for a backend, build its forms into folders of ``scratch``, and load each with all runtime options.

    A candidate that cannot be built, or disagrees with its program, has the reason. Raises PassError.
    """
    if absent := backend.missing():
        return [Candidate(backend, refused=absent)]
    outcomes = _outcomes(backend, plan, program, watchers)
    allowed = ROUNDED_DB if plan.recipe.budget.metric_drop is not None and plan.workload.data is not None else None
    if allowed is None and "float" in outcomes:
        quantized, original = outcomes["recipe"].program, outcomes["float"].program
        allowed = Fidelity(quantized, data=plan.workload.data).sqnr_to(original)
    made: list[Candidate] = []
    for form, outcome in outcomes.items():
        first = Candidate(backend, form, outcome, allowed)
        made += _variants(first, plan, program, scratch / f"{len(made)}-{backend.name}")
    return made


def _outcomes(backend: Backend, plan: Plan, program: Program, watchers: tuple[Watcher, ...]) -> dict[Form, Outcome]:
    """The outcome of the recipe for a backend, and the same without the steps that quantize, if any does."""
    first = _FirstQuantized()
    whole = plan.rewrite(program, backend, (*watchers, first))
    skipped = {i for i, step in enumerate(whole.steps) if step.quantizes}
    if not skipped:
        return {"recipe": whole}
    start = min(skipped)
    leaves = [leaf for pass_ in plan.pipeline.passes for leaf in pass_.steps()]
    before = first.before
    if before is None:  # the steps were cached
        before = plan.rewrite(program, backend, watchers, Pipeline(tuple(leaves[:start]))).program
    after = tuple(leaf for i, leaf in enumerate(leaves) if i > start and i not in skipped)
    rest = plan.rewrite(before, backend, watchers, Pipeline(after))
    return {"recipe": whole, "float": Outcome(rest.program, (*whole.steps[:start], *rest.steps), whole.before)}


class _FirstQuantized:
    """Watcher that keeps the program before the first step that quantizes, where that step is run."""

    def __init__(self) -> None:
        self.before: Program | None = None

    def cache_key(self, pass_: Pass) -> str:
        """A constant: it adds nothing to a step's findings."""
        return "nothing"

    @contextlib.contextmanager
    def __call__(self, step: Step, work: Program, result: StepResult) -> Iterator[None]:
        yield
        if result.quantizes and self.before is None:
            self.before = step.before


def _variants(first: Candidate, plan: Plan, program: Program, folder: Path) -> list[Candidate]:
    """Build a candidate and load it with all runtime options that its backend would try."""
    assert first.outcome is not None
    try:
        lowered, built = plan.lower(first.outcome.program, first.backend, folder)
        fidelity = Fidelity(lowered, first.noise_db, plan.workload.data)
    except ResourceError:
        raise
    except Exception as error:  # one backend of many, and maybe a third party's
        return [replace(first, refused=_reason(error))]
    variants = first.backend.variants()
    return [_loaded(replace(first, backend=variant), built, plan.target, fidelity) for variant in variants]


def _loaded(candidate: Candidate, built: Artifact, target: Target, fidelity: Fidelity) -> Candidate:
    if built.device is None and (
        reason := fails_alone(built.folder, candidate.backend, _STARTING + _CALLS * fidelity.seconds)
    ):
        return replace(candidate, refused=reason)
    try:
        artifact = load_for(built.folder, target, candidate.backend)
        return replace(candidate, artifact=artifact, agreement=fidelity.check(artifact))
    except Exception as error:
        return replace(candidate, refused=_reason(error))


def _reason(error: Exception) -> str:
    """The error, without the way out for a build with this backend alone."""
    if isinstance(error, DisagreementError):
        return error.what
    return text_of(error) if isinstance(error, FxoptError) else f"{type(error).__name__}: {text_of(error)}"
