"""A plan: a recipe with every name resolved, and its two steps for any backend: rewrite, lower."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fxopt.backend import Backend, find_backend
from fxopt.driver.lower import lower
from fxopt.driver.recipe import Recipe
from fxopt.ir.program import Program
from fxopt.numerics.compute_device import find_compute_device
from fxopt.pass_manager.instruments import MetricWatcher
from fxopt.pass_manager.pipeline import Outcome, Pipeline
from fxopt.pass_manager.step import Watcher
from fxopt.pass_manager.step_cache import StepCache
from fxopt.pass_manager.verify import Verify
from fxopt.runtime.artifact import Artifact
from fxopt.runtime.device import device_of
from fxopt.target import Target, find_target
from fxopt.workload import Workload, find_workload
from fxopt.workload.recorded import RecordedInputs, read_arrays


@dataclass(frozen=True)
class Plan:
    """A resolved recipe: anything misspelt fails when it is created, before any work is done.

    ``candidates`` are the backends that the recipe is tried with: the backend itself, or those that it chooses among.
    """

    recipe: Recipe
    workload: Workload
    pipeline: Pipeline
    backend: Backend
    candidates: tuple[Backend, ...]
    target: Target
    calibration: dict[str, Any] | None
    device: str = "cpu"
    """Where passes train, calibrate and evaluate, as torch spells it."""
    cache: StepCache | None = None
    """Where earlier steps are looked up, and new ones stored."""

    def capture(self) -> tuple[Plan, Program]:
        """The model as a program, and the plan with the recipe's recorded inputs, if it has any, as the workload's data."""
        program = self.workload.capture()
        if self.calibration is None:
            return self, program
        return replace(self, workload=replace(self.workload, data=RecordedInputs(self.calibration, program))), program

    def rewrite(
        self,
        program: Program,
        backend: Backend,
        watchers: tuple[Watcher, ...],
        pipeline: Pipeline | None = None,
        *,
        verified: bool = True,
    ) -> Outcome:
        """Run the recipe's passes for a backend, or those of another pipeline; each is verified and its metric recorded.

        Without ``verified`` neither is done, for a recipe that is given up or run again with both.
        """
        data = self.workload.data
        metric = (MetricWatcher(data, self.device),) if data else ()
        around: tuple[Watcher, ...] = (*metric, Verify(self.recipe.proof), *watchers) if verified else watchers
        passes = self.pipeline if pipeline is None else pipeline
        return passes.run(
            program,
            watchers=around,
            workload=self.workload,
            target=self.target,
            backend=backend,
            device=self.device,
            cache=self.cache,
        )

    def lower(self, program: Program, backend: Backend, out: Path) -> tuple[Program, Artifact]:
        """Build a program into the new folder ``out``; return it as legalized, and the artifact. Raises BackendError."""
        out.mkdir(parents=True, exist_ok=True)
        return lower(
            program, backend, self.target, out, workload=self.workload, recipe=self.recipe.to_dict(), cache=self.cache
        )


def resolve(recipe: Recipe, cache: StepCache | None = None) -> Plan:
    """Look up everything a recipe names. Raises the UsageError of what cannot be found, and DeviceError."""
    pipeline, backend = Pipeline.parse(recipe.passes), find_backend(recipe.backend)
    target = find_target(recipe.target)
    device_of(target)  # a missing device, or another machine, should fail before the passes run
    return Plan(
        recipe,
        pipeline=pipeline,
        backend=backend,
        candidates=backend.candidates(target),
        target=target,
        workload=find_workload(recipe.model),
        device=find_compute_device(recipe.device),
        calibration=read_arrays(recipe.calibration) if recipe.calibration else None,
        cache=cache,
    )
