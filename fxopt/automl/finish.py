"""The end of a search: the front timed side by side and evaluated once on test data, and the report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fxopt.automl import account
from fxopt.automl.apart import Apart
from fxopt.automl.evaluator import digest_of
from fxopt.automl.goals import Goals
from fxopt.automl.records import Record
from fxopt.automl.report import Answer, SearchReport
from fxopt.automl.rungs import Rung
from fxopt.automl.study import Study
from fxopt.automl.wanted import Wanted

_BLOCKS = 21
"""Blocks in which the front is timed."""


def finish(want: Wanted, study: Study, baseline: dict[str, Any], apart: Apart | None, seconds: float) -> SearchReport:
    """The report of a search; without ``apart`` nothing is measured again."""
    goals, original, records = want.goals, baseline["figures"], study.records()
    chosen = account.best(account.done(records, goals, original), goals)
    chosen = sorted(_raced(chosen, goals, original, apart) if apart else chosen, key=lambda r: goals.values(r.figures))
    near = None if chosen else account.nearest(records, goals, original)
    over = goals.violations(near.figures, original) if near else {}
    return SearchReport(
        model=want.recipe.model, target=want.target.to_dict(), backends=list(want.space.backends),
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
    """The front after its members are timed side by side, without those that are then dominated or miss a limit.

    An artifact that another machine keeps is built again.
    """
    for record in chosen:
        if record.kept is None or not Path(record.kept).exists():
            record.kept = apart.call("run", record.point, Rung("final", record.passes))["kept"]
    if "latency_ms" not in original or not chosen:
        return chosen
    times = apart.call("race", {digest_of(r.point): (r.kept, r.runs_on) for r in chosen}, _BLOCKS)
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
