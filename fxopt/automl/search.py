"""The search: which passes, with which options, on which backend, for one target and its limits, by measurement."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fxopt.automl import account
from fxopt.automl.apart import Apart
from fxopt.automl.evaluator import Task, digest_of
from fxopt.automl.goals import Goals, Limit, quantity
from fxopt.automl.presets import presets, remember
from fxopt.automl.read_space import read_space
from fxopt.automl.records import Record
from fxopt.automl.report import FILE, Answer, SearchReport
from fxopt.automl.space import Space
from fxopt.automl.study import Study
from fxopt.automl.worker import Until, Worker
from fxopt.automl.write_front import write_front
from fxopt.backend import find_backend
from fxopt.driver.plan import resolve
from fxopt.driver.recipe import Recipe, read_recipe
from fxopt.errors import UsageError
from fxopt.runtime.device import cannot_time
from fxopt.runtime.staging import write_json
from fxopt.target import Target

_FINALS = 21
"""Blocks in which those on the front are timed side by side at the end."""
_RESERVE = 0.08
"""Share of the time that is kept for the end: timing the front side by side, and the test data."""


@dataclass(frozen=True)
class Progress:
    """What a search tells as it goes: the trial that ended, all so far, the front, and seconds left, None without a limit."""

    last: Record | None
    records: Sequence[Record]
    front: Sequence[Record]
    hypervolume: float
    seconds_left: float | None
    goals: Goals
    original: dict[str, float]


@dataclass
class Wanted:
    """What a search is asked for, resolved: the space, the goals, and the time."""

    recipe: Recipe
    space: Space
    goals: Goals
    seconds: float | None
    trials: int | None
    seed: int = 0
    load: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def wanted(
    recipe: Recipe | str | Path,
    *,
    limits: Mapping[str, str | float] | None = None,
    objectives: Sequence[str] = ("metric_drop", "latency_ms", "file_bytes"),
    seconds: float | None = None,
    trials: int | None = None,
    seed: int = 0,
    backends: Sequence[str] | None = None,
    load: Sequence[str] = (),
) -> Wanted:
    """Resolve all that a search needs, before any work is done. Raises UsageError and what :func:`resolve` raises.

    The budget of the recipe is a limit too, where ``limits`` do not say otherwise.
    """
    if isinstance(recipe, Path) or (isinstance(recipe, str) and recipe.endswith(".toml")):
        recipe = read_recipe(recipe)
    elif isinstance(recipe, str):
        recipe = Recipe(model=recipe)
    plan = resolve(recipe)
    own = {k: v for k, v in vars(recipe.budget).items() if v is not None}
    given: dict[str, Any] = {quantity(what): bound for what, bound in (limits or {}).items()}
    read = [Limit.read(what, bound) for what, bound in (own | given).items()]
    asked, notes = [quantity(what) for what in objectives], []
    if plan.workload.data is None and plan.calibration is None:
        notes.append(
            f"{recipe.model} has no data: how far outputs are from the original's, in dB, takes the place of the metric"
        )
        asked = ["noise_db" if what == "metric_drop" else what for what in asked]
        if any(limit.what == "metric_drop" for limit in read):
            raise UsageError(
                f"a limit of the metric needs data, and {recipe.model!r} has none",
                way_out="limit noise_db instead, give --calibrate, or a workload with data",
            )
    names = tuple(backends or recipe.search.get("backends", ())) or _backends(plan, recipe)
    for name in names:
        backend = find_backend(name)
        if reason := backend.missing() or backend.cannot_build(plan.target):
            raise UsageError(f"the backend {name!r} cannot be searched for {plan.target.name}: {reason}")
    space = read_space({**recipe.search, "backends": list(names)}, names, recipe.passes)
    goals = Goals(tuple(read), tuple(asked))
    if (reason := cannot_time(plan.target)) is not None:
        goals = _untimed(goals, reason)
        notes.append(f"latency is not measured, MACs take its place: {reason}")
    return Wanted(recipe, space, goals, seconds, trials, seed, tuple(load), notes)


def _backends(plan: Any, recipe: Recipe) -> tuple[str, ...]:
    """The recipe's backend, or those that it chooses among and that can build here."""
    usable = [b for b in plan.candidates if b.missing() is None and b.cannot_build(plan.target) is None]
    return tuple(dict.fromkeys(str(b) for b in usable)) or (recipe.backend,)


def search(
    recipe: Recipe | str | Path | Wanted,
    out: str | Path,
    *,
    storage: str | None = None,
    progress: Callable[[Progress], None] = lambda p: None,
    **options: Any,
) -> SearchReport:
    """Search for recipes and write those on the front, and ``search.json``, into the folder ``out``; return the report.

    ``recipe`` is a recipe or a model's name, and ``options`` those of :func:`wanted`: ``limits`` such as
    ``{"drop": 0.01, "latency": "0.5x"}``, ``objectives``, ``seconds`` or ``trials``, ``seed``, ``backends``. The same call
    with the same ``out`` goes on where an earlier one ended, however that ended; with a ``storage`` that several machines
    reach, each of them works on it. Raises UsageError, CaptureError, BackendError; ``report.front`` is empty where no recipe
    keeps all limits.
    """
    want = recipe if isinstance(recipe, Wanted) else wanted(recipe, **options)
    began, out, goals = time.monotonic(), Path(out), want.goals
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from None
    plan = resolve(want.recipe)
    url = storage or f"sqlite:///{(out / 'study.db').resolve()}"
    study = Study(url, f"{want.recipe.model} for {plan.target.name}", len(want.goals.objectives), out)
    apart = Apart(
        Task(replace(want.recipe, backend=want.space.backends[0]), want.load, str((out / "kept").resolve())),
        out / "log",
    )
    try:
        baseline = study.baseline or apart.call("baseline")
        if study.baseline is None:
            study.baseline = baseline
        original: dict[str, float] = baseline["figures"]
        study.settle(_settings(want, plan.target.to_dict(), goals))
        apart.resume(original.get("latency_ms"))
        first = study.presets(presets(want.space, want.recipe, plan.target))
        until = Until(None, want.trials)
        if want.seconds is not None:
            until.deadline = began + want.seconds * (1 - _RESERVE)

        def told(last: Record | None) -> None:
            records = study.records()
            chosen = account.best(account.done(records, goals, original), goals)
            left = None if want.seconds is None else want.seconds - (time.monotonic() - began)
            progress(Progress(last, records, chosen, account.volume(records, goals, original), left, goals, original))

        told(None)
        worker = Worker(study, want.space, goals, first, apart, want.seed, out)
        try:
            worker.run(until, told)
            report = _report(want, plan.target, study, baseline, apart, time.monotonic() - began)
        except BaseException as stop:
            if not isinstance(stop, Exception):  # Ctrl-C: nothing is measured any more, and nothing lost
                _write(out, _report(want, plan.target, study, baseline, None, time.monotonic() - began), want, original)
            raise
    finally:
        apart.close()
    _write(out, report, want, original)
    if report.front:
        best = next(r for r in study.records() if r.number == report.front[0].trial)
        remember(plan.target, want.recipe.model, best.point)
    return report


def _write(out: Path, report: SearchReport, want: Wanted, original: dict[str, float]) -> None:
    write_front(out, report.front, want.recipe, want.goals, original)
    write_json(out / FILE, report.to_dict())


def _untimed(goals: Goals, reason: str) -> Goals:
    """The goals with MACs in place of latency, for a target that cannot be timed. Raises UsageError for a limit of latency."""
    if any(limit.what == "latency_ms" for limit in goals.limits):
        raise UsageError(
            f"latency cannot be limited: {reason}", way_out="limit macs instead, or give the target an address"
        )
    others = [what for what in goals.objectives if what != "latency_ms"]
    return replace(
        goals, objectives=tuple(dict.fromkeys([*others, "macs"] if len(others) < len(goals.objectives) else others))
    )


def _settings(want: Wanted, target: dict[str, Any], goals: Goals) -> dict[str, Any]:
    """What has to be the same for all that work on a study. The space is not among it: it may grow."""
    facts = {k: v for k, v in target.items() if k != "address"}
    return {
        "model": want.recipe.model, "target": json.dumps(facts, sort_keys=True), "limits": [str(limit) for limit in goals.limits],
        "objectives": list(goals.objectives), "seed": want.seed,
    }  # fmt: skip


def _report(
    want: Wanted, target: Target, study: Study, baseline: dict[str, Any], apart: Apart | None, seconds: float
) -> SearchReport:
    """The account of a search; without ``apart`` as it stands, nothing measured again."""
    goals, original, records = want.goals, baseline["figures"], study.records()
    chosen = account.best(account.done(records, goals, original), goals)
    chosen = sorted(_raced(chosen, goals, original, apart) if apart else chosen, key=lambda r: goals.values(r.figures))
    near = None if chosen else account.nearest(records, goals, original)
    over = goals.violations(near.figures, original) if near else {}
    return SearchReport(
        model=want.recipe.model, target=target.to_dict(), backends=list(want.space.backends),
        limits=[str(limit) for limit in goals.limits], objectives=list(goals.objectives), seed=want.seed,
        original=original, metric=baseline["metric"], original_metric=baseline["value"], notes=want.notes,
        trials=len(records), seconds=round(seconds, 1), interrupted=apart is None, front=_answers(chosen, apart),
        nearest=_answer(near, "") if near else None,
        blocked_by={what: near.figures[what] for what, v in over.items() if v > 1e-9} if near else {},
        hypervolume=account.volume(records, goals, original),
        techniques=account.techniques(records, chosen, want.space, goals, original), rejected=account.rejected(records),
        importance=account.importance(study.inner, goals), trade=account.trade(records, goals, original),
    )  # fmt: skip


def _raced(chosen: list[Record], goals: Goals, original: dict[str, float], apart: Apart) -> list[Record]:
    """The front after its members are timed side by side: whom another dominates then, or who misses a limit, is out.

    An artifact that another machine keeps is built again.
    """
    for record in chosen:
        if record.kept is None or not Path(record.kept).exists():
            from fxopt.automl.rungs import Rung

            record.kept = apart.call("run", record.point, Rung("final", record.passes))["kept"]
    if "latency_ms" not in original or not chosen:
        return chosen
    times = apart.call("race", {digest_of(r.point): (r.kept, r.runs_on) for r in chosen}, _FINALS)
    again = [
        r.model_copy(update={"figures": r.figures | {f"{k}_ms": v for k, v in times[digest_of(r.point)].items()}})
        for r in chosen
    ]
    for record in again:
        record.figures["latency_ms"] = record.figures.pop("median_ms")
    kept = [r for r in again if goals.feasible(r.figures, original)]
    return account.best(kept or again, goals)


def _answers(chosen: list[Record], apart: Apart | None) -> list[Answer]:
    """The front, the best metric first, each with its loss on test data."""
    kept = {digest_of(r.point): (r.kept, r.runs_on) for r in chosen}
    drops: dict[str, float] = apart.call("test", kept) if kept and apart else {}
    return [_answer(r, f"front/{i:02}.toml", drops.get(digest_of(r.point))) for i, r in enumerate(chosen, 1)]


def _answer(record: Record, recipe: str, test_drop: float | None = None) -> Answer:
    figures = {k: v for k, v in record.figures.items() if k not in ("low_ms", "high_ms") and math.isfinite(v)}
    return Answer(
        passes=record.passes, backend=record.runs_on or record.backend, figures=figures, low_ms=record.figures.get("low_ms"),
        high_ms=record.figures.get("high_ms"), held_out_drop=record.held_out, test_drop=test_drop, recipe=recipe,
        trial=record.number,
    )  # fmt: skip
