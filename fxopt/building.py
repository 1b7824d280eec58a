"""The main job: a recipe to an artifact folder with a report."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fxopt import artifact, facts
from fxopt.artifact import Artifact
from fxopt.backend import Backend, find_backend
from fxopt.cost import cost
from fxopt.judging import agreement, budget_lines, compare, metric_watcher
from fxopt.lowering import legalized, lower
from fxopt.pipeline import Outcome, Pipeline, Watcher
from fxopt.program import Program
from fxopt.recipe import Recipe, read_recipe
from fxopt.recorded import RecordedInputs, read_arrays
from fxopt.target import Target, find_target
from fxopt.verify import Verify
from fxopt.workload import Workload, find_workload

Progress = Callable[[str], None]
"""Told the name of each stage as it begins."""


@dataclass(frozen=True)
class Plan:
    """A recipe with every name resolved: whatever is misspelt fails before any work is done."""

    recipe: Recipe
    workload: Workload
    pipeline: Pipeline
    backend: Backend
    target: Target
    calibration: dict[str, Any] | None


def resolve(recipe: Recipe) -> Plan:
    """Look up everything a recipe names. Raises the UsageError of what cannot be found."""
    return Plan(
        recipe,
        pipeline=Pipeline.parse(recipe.passes),
        backend=find_backend(recipe.backend),
        target=find_target(recipe.target),
        workload=find_workload(recipe.model),
        calibration=read_arrays(recipe.calibration) if recipe.calibration else None,
    )


def build(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    measure: bool = True,
    tune_seconds: float = 0.0,
    watchers: tuple[Watcher, ...] = (),
    progress: Progress = lambda stage: None,
) -> dict[str, Any]:
    """Build a recipe into the folder ``out`` and return the report, which is also in the folder.

    With ``measure`` the model before and after is timed side by side, beside eager; ``tune_seconds`` above 0 lets
    the backend choose its options by measurement. Extra ``watchers`` run inside verification and the metric.
    The folder appears when all is done, or not at all. A missed budget is in the report: ``report["missed"]``.

    Raises UsageError, CaptureError, PassError, BackendError.
    """
    plan = resolve(recipe if isinstance(recipe, Recipe) else read_recipe(recipe))
    clock = _Clock(progress)
    with artifact.staged(Path(out)) as stage, tempfile.TemporaryDirectory(prefix="fxopt-") as scratch:
        with clock("capture"):
            program = plan.workload.capture()
        if plan.calibration is not None:
            plan = replace(plan, workload=replace(plan.workload, data=RecordedInputs(plan.calibration, program)))
        with clock("passes"):
            outcome = _rewrite(plan, program, watchers)
        backend = plan.backend
        if tune_seconds:
            with clock("tune"):
                backend = backend.tune(
                    legalized(outcome.program, backend, plan.target, plan.workload), plan.target, tune_seconds
                )
        with clock("build"):
            lowered, built = _lower(plan, outcome.program, backend, stage)
            agreed = agreement(program, lowered, built)
        with clock("build before"):
            _, reference = _lower(plan, program, backend, Path(scratch))
        with clock("measure"):
            report = compare(plan.workload, program, reference, built, timed=measure)
        report |= {
            "agreement": agreed,
            "recipe": plan.recipe.to_dict(),
            "backend": {"text": str(backend), **built.manifest["facts"]},
            "target": plan.target.to_dict(),
            "versions": facts.versions(),
            "model": {"name": plan.workload.name, "signature": program.signature(), "notes": list(program.notes)},
            "steps": [facts.step_dict(step) for step in outcome.steps],
            "seconds": clock.seconds,
        }
        report["before"] |= facts.cost_dict(outcome.before)
        report["after"] |= facts.cost_dict(cost(outcome.program))
        report["budget"] = budget_lines(plan.recipe.budget, report)
        report["missed"] = [line["text"] for line in report["budget"] if not line["met"]]
        artifact.write_json(stage / artifact.REPORT, report)
        built.manifest["measured"] = {key: report[key] for key in ("before", "after", "agreement")}
        artifact.write_json(stage / artifact.MANIFEST, built.manifest)
    return report


def _rewrite(plan: Plan, program: Program, watchers: tuple[Watcher, ...]) -> Outcome:
    data = plan.workload.data
    around: tuple[Watcher, ...] = (*((metric_watcher(data),) if data else ()), Verify(), *watchers)
    return plan.pipeline.run(program, watchers=around, workload=plan.workload, target=plan.target, backend=plan.backend)


def _lower(plan: Plan, program: Program, backend: Backend, out: Path) -> tuple[Program, Artifact]:
    return lower(program, backend, plan.target, out, workload=plan.workload, recipe=plan.recipe.to_dict())


class _Clock:
    """Seconds of each stage, announced as it begins."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._progress(stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)
