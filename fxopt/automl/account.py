"""The account of a search, read off its trials: techniques, refusals, importance, what a looser limit would buy."""

from __future__ import annotations

import functools
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import optuna

from fxopt.automl.goals import LEARNED, Goals, Limit
from fxopt.automl.pareto import dominates, front, hypervolume
from fxopt.automl.records import Record
from fxopt.automl.report import Rejected, Technique, Trade
from fxopt.automl.space import Space
from fxopt.support.spec import parse_calls

_MORE = 0.005
_ENOUGH = 10
"""Fewest trials with figures for which importance is estimated."""


def done(records: Sequence[Record], goals: Goals, original: dict[str, float]) -> list[Record]:
    """The recipes that reached the top and keep all limits."""
    return [r for r in records if r.why == "done" and goals.feasible(r.figures, original)]


def best(records: Sequence[Record], goals: Goals) -> list[Record]:
    """Those that no other dominates, of equal ones the first."""
    return [records[i] for i in front([goals.values(r.figures) for r in records])]


def volume(records: Sequence[Record], goals: Goals, original: dict[str, float]) -> float:
    """Hypervolume of the recipes that keep all limits, below the limits, or where there is none the original itself."""
    reference = []
    for what, value in zip(goals.objectives, goals.values(_floored(original)), strict=True):
        bound = goals.bound(what, original)
        limit = (
            value
            if math.isinf(bound)
            else goals.values({**_floored(original), what: bound})[goals.objectives.index(what)]
        )
        reference.append(
            limit + (0.01 if what == "metric_drop" else 1e-6)
        )  # a value equal to the limit counts as below it
    return hypervolume([goals.values(r.figures) for r in done(records, goals, original)], reference)


def nearest(records: Sequence[Record], goals: Goals, original: dict[str, float]) -> Record | None:
    """Where no recipe keeps all limits, the finished one with the least sum of violations, else the one that climbed highest."""
    finished = [r for r in records if r.figures]
    top = [r for r in finished if r.why == "done"] or finished
    return min(
        top, key=lambda r: sum(max(0.0, v) for v in goals.violations(r.figures, original).values()), default=None
    )


def techniques(
    records: Sequence[Record], chosen: Sequence[Record], space: Space, goals: Goals, original: dict[str, float]
) -> list[Technique]:
    """The outcome of each pass that is searched."""
    found = []
    for pass_space in space.passes:
        if pass_space.stage == "exact":
            continue
        having = [r for r in records if pass_space.name in names(r)]
        finished = [r for r in having if r.why == "done"]
        on_front = any(pass_space.name in names(r) for r in chosen)
        why = None if on_front else _why_not(having, finished, chosen, goals, original)
        found.append(
            Technique(name=pass_space.name, tried=len(having), finished=len(finished), on_front=on_front, why_not=why)
        )
    return found


def names(record: Record) -> set[str]:
    """Names of a recipe's passes."""
    return {name for text in record.passes for name, _ in parse_calls(text)}


def _why_not(
    having: list[Record], finished: list[Record], chosen: Sequence[Record], goals: Goals, original: dict[str, float]
) -> str:
    if not having:
        return "never tried; give the search more time"
    if not finished:
        why, count = Counter(r.why for r in having).most_common(1)[0]
        example = next(r.reason for r in having if r.why == why)
        return f"none reached the top; {count} of {len(having)}: {example}"
    near = nearest(finished, goals, original)
    assert near is not None
    if over := {w: v for w, v in goals.violations(near.figures, original).items() if v > 1e-9}:
        return "the nearest misses " + ", ".join(
            f"{what} {near.figures[what]:.4g}, limit {goals.bound(what, original):.4g}" for what in over
        )
    mine = goals.values(near.figures)
    above = next((r for r in chosen if dominates(goals.values(r.figures), mine)), None)
    if above is None:
        return "equal to one on the front"
    gains = [
        f"{what} {above.figures[what]:.4g} instead of {near.figures[what]:.4g}"
        for what in goals.objectives
        if above.figures[what] < near.figures[what]
    ]
    return f"recipe of trial {above.number} is better: {', '.join(gains)}"


def rejected(records: Sequence[Record]) -> list[Rejected]:
    """The trials that did not reach the top, by reason."""
    reasons = Counter(r.why for r in records if r.why and r.why != "done")
    return [
        Rejected(why=str(why), count=count, example=next(r.reason for r in records if r.why == why))
        for why, count in reasons.most_common()
    ]


def importance(study: optuna.Study, goals: Goals) -> dict[str, dict[str, float]]:
    """Importance of each choice for each objective, by optuna's PED-ANOVA (Watanabe et al. 2023); empty for too few trials."""
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < _ENOUGH:
        return {}
    found: dict[str, dict[str, float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, what in enumerate(goals.objectives):
            try:
                shares = optuna.importance.get_param_importances(
                    study,
                    evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                    target=functools.partial(_value, i),
                )
            except (ValueError, RuntimeError):  # all trials alike
                continue
            found[what] = {name: round(share, 4) for name, share in shares.items() if math.isfinite(share)}
    return found


def _value(index: int, trial: optuna.trial.FrozenTrial) -> float:
    return trial.values[index]


def trade(records: Sequence[Record], goals: Goals, original: dict[str, float]) -> Trade | None:
    """What a drop of half a point more of the metric would buy, from the recipes that were tried."""
    bound = goals.bound("metric_drop", original)
    others = [what for what in goals.objectives if what not in LEARNED]
    if math.isinf(bound) or not others:
        return None
    looser = replace(
        goals,
        limits=tuple(one for one in goals.limits if one.what != "metric_drop") + (Limit("metric_drop", bound + _MORE),),
    )
    now, then = done(records, goals, original), done(records, looser, original)
    if not now or not then:
        return None
    least, instead = ({str(what): min(r.figures[what] for r in rs) for what in others} for rs in (then, now))
    return Trade(extra_drop=_MORE, best=least, instead_of=instead)


def _floored(figures: dict[str, float]) -> dict[str, float]:
    return {**figures, "noise_db": 0.0}
