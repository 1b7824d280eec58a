"""The search: which passes, with which options, on which backend, for one target and its limits, by measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fxopt.automl.need_optuna  # noqa: F401  (first: what is below imports optuna)
from fxopt.automl import account
from fxopt.automl.apart import Apart
from fxopt.automl.evaluator import Task
from fxopt.automl.finish import finish
from fxopt.automl.goals import Goals
from fxopt.automl.presets import presets, remember
from fxopt.automl.records import Record
from fxopt.automl.report import SearchReport
from fxopt.automl.study import Study
from fxopt.automl.until import Until
from fxopt.automl.wanted import Wanted, wanted
from fxopt.automl.worker import Worker
from fxopt.automl.write_front import write_front
from fxopt.driver.recipe import Recipe
from fxopt.errors import UsageError
from fxopt.runtime.device import find_device
from fxopt.runtime.staging import write_json

_RESERVE = 0.08
"""Share of the time that is kept for the end: timing the front side by side, and the test data."""


@dataclass(frozen=True)
class Progress:
    """Progress of a search: the trial that ended, all so far, the front, and seconds left, None without a limit."""

    last: Record | None
    records: Sequence[Record]
    front: Sequence[Record]
    hypervolume: float
    seconds_left: float | None
    goals: Goals
    original: dict[str, float]


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
    with the same ``out`` resumes an earlier one, however that ended; with a ``storage`` that several machines reach, each of
    them works on it. ``report.front`` is empty where no recipe keeps all limits. An interruption of the search, such as
    Ctrl-C, is raised again once the report so far is written.
    Raises UsageError, CaptureError, BackendError.
    """
    want = recipe if isinstance(recipe, Wanted) else wanted(recipe, **options)
    began, out = time.monotonic(), Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from None
    url = storage or f"sqlite:///{(out / 'study.db').resolve()}"
    study = Study(url, f"{want.recipe.model} for {want.target.name}", len(want.goals.objectives), out)
    if want.target.address is not None:
        find_device(want.target.address).rest()  # it has one session at a time, and the evaluator is another process
    first_backend = replace(want.recipe, backend=want.space.backends[0])
    apart = Apart(Task(first_backend, want.load, str((out / "kept").resolve())), out / "log")
    try:
        baseline = study.begin(want.settings(), lambda: apart.call("baseline"))
        apart.resume(baseline["figures"].get("latency_ms"))
        try:
            _work(want, study, baseline, apart, began, out, progress)
            report = finish(want, study, baseline, apart, time.monotonic() - began)
        except BaseException as stop:
            if not isinstance(stop, Exception):  # Ctrl-C: stop measuring, and lose nothing
                _write(out, finish(want, study, baseline, None, time.monotonic() - began), want)
            raise
    finally:
        apart.close()
    _write(out, report, want)
    if report.front:
        best = next(r for r in study.records() if r.number == report.front[0].trial)
        remember(want.target, want.recipe.model, best.point)
    return report


def _work(
    want: Wanted,
    study: Study,
    baseline: dict[str, Any],
    apart: Apart,
    began: float,
    out: Path,
    progress: Callable[[Progress], None],
) -> None:
    """Try recipes until the search is over."""
    original: dict[str, float] = baseline["figures"]

    def told(last: Record | None) -> None:
        records = study.records()
        chosen = account.best(account.done(records, want.goals, original), want.goals)
        left = None if want.seconds is None else want.seconds - (time.monotonic() - began)
        volume = account.volume(records, want.goals, original)
        progress(Progress(last, records, chosen, volume, left, want.goals, original))

    deadline = None if want.seconds is None else began + want.seconds * (1 - _RESERVE)
    until = Until(deadline, want.trials, want.seconds)
    first = study.presets(presets(want.space, want.recipe, want.target))
    told(None)
    Worker(study, want.space, want.goals, first, apart, want.seed, out).run(until, told)


def _write(out: Path, report: SearchReport, want: Wanted) -> None:
    write_front(out, report.front, want.recipe, want.goals, dict(report.original))
    write_json(out / report.FILE, report.to_dict())
