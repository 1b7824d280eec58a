"""The options of a search, with every name resolved before any work is done: the space, the goals, and the time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fxopt.automl.goals import Goals, Limit, Quantity, quantity
from fxopt.automl.read_space import read_space
from fxopt.automl.space import Space
from fxopt.backend import find_backend
from fxopt.driver.plan import Plan, resolve
from fxopt.driver.recipe import Recipe, read_recipe
from fxopt.errors import UsageError
from fxopt.runtime.device import cannot_time
from fxopt.target import Target


@dataclass
class Wanted:
    """A search: its recipe, space and goals, and how long it runs: ``seconds``, ``trials``, or both."""

    recipe: Recipe
    target: Target
    space: Space
    goals: Goals
    seconds: float | None
    trials: int | None
    seed: int = 0
    load: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def settings(self) -> dict[str, Any]:
        """Settings that all workers of a study must share. The space is not among them: it may grow."""
        facts = {k: v for k, v in self.target.to_dict().items() if k != "address"}
        return {
            "model": self.recipe.model,
            "target": json.dumps(facts, sort_keys=True),
            "limits": [str(limit) for limit in self.goals.limits],
            "objectives": list(self.goals.objectives),
            "seed": self.seed,
        }


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
    """Resolve the options of a search, before any work is done. Raises UsageError and the errors of :func:`resolve`.

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
        notes.append(f"{recipe.model} has no data: how far outputs are from the original's, in dB, replaces the metric")
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
        goals, note = _untimed(goals, reason, names)
        notes.append(note)
    return Wanted(recipe, plan.target, space, goals, seconds, trials, seed, tuple(load), notes)


def _backends(plan: Plan, recipe: Recipe) -> tuple[str, ...]:
    """The recipe's backend, or those that it chooses among and that can build here.

    The one that recipes name unless they say otherwise is first: the original and the first recipes are built by it.
    """
    usable = [b for b in plan.candidates if b.missing() is None and b.cannot_build(plan.target) is None]
    usable.sort(key=lambda b: b.name != Recipe.backend)
    return tuple(dict.fromkeys(str(b) for b in usable)) or (recipe.backend,)


def _untimed(goals: Goals, reason: str, backends: Sequence[str]) -> tuple[Goals, str]:
    """The goals with another quantity in place of latency, for a target that cannot be timed, and a note that says so.

    It is the cycles that the one backend estimates, or MACs, also for a limit of latency in proportion to the original's.
    Raises UsageError for a limit in milliseconds.
    """
    instead: Quantity = "macs"
    words = "MACs take its place (tvm alone estimates cycles, which are nearer to it)"
    if len(backends) == 1 and find_backend(backends[0]).estimates_cycles:
        instead, words = "cycles", f"the cycles that {backends[0]} estimates take its place"
    if any(limit.what == "latency_ms" and not limit.relative for limit in goals.limits):
        raise UsageError(
            f"latency cannot be limited: {reason}",
            way_out="limit it in proportion to the original's, such as 0.5x, or give the target an address",
        )
    limits = [replace(limit, what=instead) if limit.what == "latency_ms" else limit for limit in goals.limits]
    objectives = [instead if what == "latency_ms" else what for what in goals.objectives]
    return (
        Goals(tuple(dict.fromkeys(limits)), tuple(dict.fromkeys(objectives))),
        f"latency is not measured, {words}: {reason}",
    )
