"""The main job: a recipe to an artifact folder with a report."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fxopt.backend import check_lowerable
from fxopt.driver.artifact_check import Fidelity, is_quantized
from fxopt.driver.budget import budget_lines, device_lines
from fxopt.driver.candidates import Candidate
from fxopt.driver.concerns import concerns_about
from fxopt.driver.default_cache import default_cache
from fxopt.driver.evaluate import compare
from fxopt.driver.intermediate_values import Exposed
from fxopt.driver.layers import layers_of
from fxopt.driver.lower import legalized
from fxopt.driver.nan_check import nan_note
from fxopt.driver.page.build_page import build_page
from fxopt.driver.page.verdict import verdict
from fxopt.driver.page.write import write_page
from fxopt.driver.plan import resolve
from fxopt.driver.recipe import Recipe, read_recipe
from fxopt.driver.report import BackendChoice, BuildReport, CacheFacts, Costs, MemoryFacts, ModelFacts, StepReport
from fxopt.driver.select_backend import choose
from fxopt.ir.cost import cost, macs_of
from fxopt.ir.memory_planning import plan_memory
from fxopt.ir.program_state import program_digest
from fxopt.pass_manager.step import Watcher
from fxopt.runtime.staging import MANIFEST, PAGE, REPORT, staged, write_json
from fxopt.support.scratch import scratch_folder
from fxopt.support.versions import versions

_log = logging.getLogger(__name__)


def build(
    recipe: Recipe | str | Path,
    out: str | Path,
    *,
    measure: bool = True,
    tune_seconds: float = 0.0,
    cache: bool = True,
    device: str | None = None,
    watchers: tuple[Watcher, ...] = (),
) -> BuildReport:
    """Build a recipe into the folder ``out`` and return the report, which is also in the folder.

    With ``measure`` the model is also built as it was before, and before, after and eager are timed side by side;
    ``tune_seconds`` above 0 lets the backend choose its options by measurement. A backend that chooses among others has the
    recipe tried with each of them: ``report.choice``, also in the manifest. With ``cache``, earlier results are looked up, and
    new ones stored, except latencies; see :mod:`fxopt.pass_manager.step_cache`. ``device`` is where passes train, calibrate and
    evaluate ("auto", "cuda:1" …), instead of the recipe's. Extra ``watchers`` run inside verification and the metric.
    The logger ``fxopt`` reports progress at INFO.
    The folder appears when all is done, or not at all. A missed budget is in the report, ``report.missed``, and the folder
    then is ``out.missed``, with ``out`` untouched: see :mod:`fxopt.runtime.staging`. ``report.folder`` is the folder, the
    only field that is not in the stored report.

    Raises UsageError, CaptureError, PassError, BackendError; DeviceError for a device that is not there.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    recipe = recipe if device is None else replace(recipe, device=device)
    plan = resolve(recipe, default_cache() if cache else None)
    clock = _Clock()
    choice: BackendChoice | None = None
    with staged(Path(out)) as stage, scratch_folder() as scratch:
        with clock("capture"):
            plan, program = plan.capture()
        if plan.candidates == (plan.backend,):
            with clock("passes"):
                chosen = Candidate(plan.backend, outcome=plan.rewrite(program, plan.backend, watchers))
        else:
            with clock("choose"):
                chosen, choice = choose(plan, program, watchers, scratch / "candidates")
        backend, outcome = chosen.backend, chosen.outcome
        assert outcome is not None
        if tune_seconds:
            with clock("tune"):
                legal = legalized(outcome.program, backend, plan.target, plan.workload, plan.cache)
                check_lowerable(backend, legal)
                backend = backend.tune(legal, plan.target, tune_seconds)
        with clock("build"):
            lowered, built = plan.lower(outcome.program, backend, stage.folder)
            exposed = functools.partial(Exposed, lowered, backend, plan.target, built, scratch / "exposed")
            agreed = (
                None
                if built.elsewhere
                else Fidelity(lowered, chosen.noise_db, plan.workload.data).check(built, exposed)
            )
            if not built.elsewhere and (note := nan_note(lowered, built)):
                built.manifest.facts.setdefault("notes", []).append(note)
        reference = None
        if measure:
            with clock("build before"):
                _, reference = plan.lower(program, backend, scratch / "before")
        with clock("measure"):
            costs = Costs.of(outcome.before), Costs.of(cost(outcome.program))
            compared = compare(plan.workload, program, reference, built, costs)
            board = {"address": built.device.address, **built.device.facts()} if built.device else None
        memory = MemoryFacts.of(plan_memory(lowered))
        reached = {
            "metric_drop": compared.metric_drop, "file_bytes": compared.after.file_bytes, "macs": compared.after.macs,
            "latency_ms": compared.after.latency.median_ms if compared.after.latency else None,
        }  # fmt: skip
        budget = budget_lines(plan.recipe.budget, reached)
        budget += device_lines(plan.target, memory, compared.after.file_bytes)
        metric = plan.workload.data.metric if plan.workload.data else None
        report = BuildReport(
            model=ModelFacts(
                name=plan.workload.name,
                signature=program.signature(),
                notes=list(outcome.program.notes),
                macs_of=macs_of(program),
            ),
            recipe=plan.recipe.to_dict(),
            backend={"text": str(backend), **built.manifest.facts},
            target=plan.target.to_dict(),
            for_target=backend.suits(plan.target),
            versions=versions(),
            steps=[StepReport.of(step) for step in outcome.steps],
            before=compared.before,
            after=compared.after,
            metric=metric,
            agreement=agreed,
            eager=compared.eager,
            choice=choice,
            memory=memory,
            budget=budget,
            missed=[line.text for line in budget if not line.met],
            concerns=concerns_about(
                compared.before, compared.after, metric, outcome.steps, quantized=is_quantized(lowered)
            ),
            not_run=built.elsewhere,
            not_timed=compared.not_timed,
            device=board,
            cache=CacheFacts.read(outcome.steps, plan.cache),
            seconds=clock.seconds,
            program=program_digest(lowered),
            layers_before=layers_of(program),
            layers=layers_of(lowered),
        )
        stage.missed = bool(report.missed)
        values = report.to_dict()
        write_json(stage.folder / REPORT, values)
        if recipe.html:
            write_page(build_page([report.model_copy(update={"folder": stage.place.name})]), stage.folder / PAGE)
        built.manifest.measured = {key: values[key] for key in ("before", "after", "agreement") if key in values}
        if choice:
            built.manifest.choice = values["choice"]
        write_json(stage.folder / MANIFEST, built.manifest.to_dict())
    report.folder = str(stage.place)
    _log.info("built %s: %s", stage.place.name, verdict(report), extra={"report": report})
    return report


class _Clock:
    """Seconds of each stage, announced as it begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        _log.info(stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)
