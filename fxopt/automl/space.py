"""The space of recipes: for each stage none of its passes or one, with its options; all exact passes; one backend.

A point of the space is text, passes and backend, as in a recipe. A sampler's parameters are derived from it, so a study
can be read again by a larger space.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fxopt.automl.dimensions import Dimension
from fxopt.automl.limit_shares import lowered
from fxopt.errors import OptionError
from fxopt.pass_manager.pass_base import Pass, Stage, make
from fxopt.pass_manager.pipeline import Pipeline

STAGES: tuple[Stage, ...] = typing.get_args(Stage)
LOSSY: tuple[Stage, ...] = ("arch", "width", "rank")
"""Stages that lose accuracy, which ``recover`` can regain."""
NONE = "none"
_ORDER, _BACKEND = "rank_first", "backend"


class Suggests(Protocol):
    """A source of values: a trial of optuna, or anything with these two methods."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between two, both included."""


@dataclass(frozen=True)
class Point:
    """A recipe's passes and backend, as text."""

    passes: tuple[str, ...]
    backend: str

    def __str__(self) -> str:
        return f"{', '.join(self.passes) or 'no passes'} | {self.backend}"


@dataclass(frozen=True)
class PassSpace:
    """A pass at its stage, the options that vary, and those that are fixed at other values than their defaults."""

    cls: type[Pass]
    stage: Stage
    dimensions: tuple[Dimension, ...]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the pass."""
        return self.cls.name

    @property
    def fidelity(self) -> Dimension | None:
        """The option that is an amount of training, if there is one."""
        return next((d for d in self.dimensions if d.fidelity), None)

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The varying options of each group of which one is given; groups that a fixed option decides are left out."""
        varying = {d.name for d in self.dimensions}
        groups = ((group, [name for name in group if name in varying]) for group in self.cls.one_of)
        return tuple(tuple(names) for group, names in groups if names and not set(group) & set(self.fixed))

    def suggest(self, trial: Suggests) -> Pass:
        """The pass with options suggested by the trial. Raises OptionError where they contradict each other."""
        chosen = {name for group in self.groups() for name in group}
        for i, group in enumerate(self.groups()):
            one = trial.suggest_categorical(f"{self.name}.one_of.{i}", group) if len(group) > 1 else group[0]
            chosen -= set(group) - {one}
        decided = {n for group in self.cls.one_of for n in group} - chosen
        options = dict(self.fixed)
        for dimension in self.dimensions:
            if dimension.name not in decided:
                options[dimension.name] = _suggest(trial, f"{self.name}.{dimension.name}", dimension)
        return make(self.cls, options)

    def parameters(self, pass_: Pass) -> dict[str, Any]:
        """The parameters of :meth:`suggest` for a pass; options outside their dimension are left out."""
        given = {d.name: getattr(pass_, d.name) for d in self.dimensions}
        found = {f"{self.name}.{d.name}": given[d.name] for d in self.dimensions if d.holds(given[d.name])}
        for i, group in enumerate(self.groups()):
            one = next((name for name in group if f"{self.name}.{name}" in found), None)
            if one and len(group) > 1:
                found[f"{self.name}.one_of.{i}"] = one
        return found

    def lines(self, *, always: bool = False) -> list[str]:
        """The pass with its stage, and a line for each dimension."""
        fixed = ", ".join(f"{name}={value!r}" for name, value in self.fixed.items())
        head = f"{self.stage:<8} {self.name}" + (f"({fixed})" if fixed else "") + (" (always)" if always else "")
        return [head, *(f"{'':<13}{dimension}" for dimension in self.dimensions)]

    def points(self) -> Iterator[Pass]:
        """The pass at every choice and end of every dimension, the others at their first. Raises OptionError."""
        for changed in self.dimensions or (None,):
            for value in changed.ends() if changed else (None,):
                yield self.suggest(At({f"{self.name}.{d.name}": d.ends()[0] for d in self.dimensions}
                                       | ({f"{self.name}.{changed.name}": value} if changed else {})))  # fmt: skip


@dataclass(frozen=True)
class Space:
    """All recipes of a search. ``required`` names passes that every recipe has."""

    passes: tuple[PassSpace, ...]
    backends: tuple[str, ...]
    required: frozenset[str] = frozenset()

    def at(self, stage: Stage) -> tuple[PassSpace, ...]:
        """The passes of a stage."""
        return tuple(p for p in self.passes if p.stage == stage)

    def find(self, name: str) -> PassSpace | None:
        """The pass of a name, None if it is not searched."""
        return next((p for p in self.passes if p.name == name), None)

    def suggest(self, trial: Suggests, limits: Mapping[str, float] = types.MappingProxyType({})) -> Point:
        """A point suggested by the trial. Raises OptionError for options that contradict each other.

        ``limits`` are the shares of the original that may be left, by the name of options: suggested shares are lowered
        to keep them (:mod:`fxopt.automl.limit_shares`).
        """
        taken: dict[Stage, Pass] = {}
        for stage in STAGES:
            if stage == "exact" or (
                stage == "recover" and not any(s in taken for s in LOSSY) and not self._needs(stage)
            ):
                continue
            if (chosen := self._slot(trial, stage)) is not None:
                taken[stage] = chosen.suggest(trial)
        lossy = {stage: (taken[stage], self._varying(taken[stage])) for stage in LOSSY if stage in taken}
        taken |= lowered(lossy, limits)
        order = list(STAGES)
        if "width" in taken and "rank" in taken and trial.suggest_categorical(_ORDER, (False, True)):
            order.remove("rank")
            order.insert(order.index("width"), "rank")
        texts: list[str] = []
        for stage in order:
            found = [str(p.suggest(trial)) for p in self.at(stage)] if stage == "exact" else []
            texts += found or ([str(taken[stage])] if stage in taken else [])
        backend = trial.suggest_categorical(_BACKEND, self.backends) if len(self.backends) > 1 else self.backends[0]
        return Point(tuple(texts), backend)

    def parameters(self, point: Point) -> dict[str, Any]:
        """The sampler's parameters for a point; those outside the space are left out."""
        found: dict[str, Any] = {stage: NONE for stage in STAGES if stage != "exact" and len(self._names(stage)) > 1}
        stages: list[Stage] = []
        for pass_ in Pipeline.parse(point.passes).passes:
            if (space := self.find(pass_.name)) is not None:
                found |= ({space.stage: space.name} if space.stage in found else {}) | space.parameters(pass_)
                stages.append(space.stage)
        if "width" in stages and "rank" in stages:
            found[_ORDER] = stages.index("rank") < stages.index("width")
        if len(self.backends) > 1 and point.backend in self.backends:
            found[_BACKEND] = point.backend
        if not any(stage in stages for stage in LOSSY):
            found.pop("recover", None)
        return found

    def dimension(self, parameter: str) -> Dimension:
        """What a sampler's parameter is chosen from: the values of an option, the passes of a stage, and so on."""
        found: dict[str, Dimension] = {
            stage: Dimension(stage, self._names(stage)) for stage in STAGES if stage != "exact"
        }
        found |= {_ORDER: Dimension(_ORDER, (False, True)), _BACKEND: Dimension(_BACKEND, self.backends)}
        for space in self.passes:
            found |= {f"{space.name}.{d.name}": d for d in space.dimensions}
            found |= {n: Dimension(n, g) for i, g in enumerate(space.groups()) for n in [f"{space.name}.one_of.{i}"]}
        return found[parameter]

    def fixed_by(self, pass_: Pass) -> Space:
        """The space in which the options of a pass, as a recipe has it, are kept where no dimension varies them."""
        space = self.find(pass_.name)
        if space is None:
            return self
        varying = {d.name for d in space.dimensions}
        options = {n: v for n, v in pass_.options().items() if n not in varying}
        groups = [g for g in space.cls.one_of if set(g) & set(options)]
        kept = tuple(d for d in space.dimensions if not any(d.name in group for group in groups))
        new = replace(space, dimensions=kept, fixed={**space.fixed, **options})
        return replace(self, passes=tuple(new if p is space else p for p in self.passes))

    def around(self, passes: Sequence[str]) -> Space:
        """The space in which the options of these passes are kept where no dimension varies them."""
        return functools.reduce(Space.fixed_by, Pipeline.parse(passes).passes, self)

    def lines(self) -> list[str]:
        """The space as text, stage by stage."""
        lines = []
        for stage in STAGES:
            for space in self.at(stage):
                lines += space.lines(always=stage == "exact" or space.name in self.required)
        return [*lines, f"{'backend':<8} {', '.join(self.backends)}"]

    def _varying(self, pass_: Pass) -> dict[str, Dimension]:
        space = self.find(pass_.name)
        return {d.name: d for d in space.dimensions} if space else {}

    def _needs(self, stage: Stage) -> bool:
        return any(p.name in self.required for p in self.at(stage))

    def _names(self, stage: Stage) -> tuple[str, ...]:
        names = tuple(p.name for p in self.at(stage))
        return tuple(n for n in names if n in self.required) or (NONE, *names)

    def _slot(self, trial: Suggests, stage: Stage) -> PassSpace | None:
        names = self._names(stage)
        return self.find(trial.suggest_categorical(stage, names) if len(names) > 1 else names[0])


def _suggest(trial: Suggests, name: str, dimension: Dimension) -> Any:
    if dimension.choices:
        if len(dimension.choices) == 1:
            return dimension.choices[0]
        return trial.suggest_categorical(name, dimension.choices)
    return dimension.value(trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log))


@dataclass(frozen=True)
class At:
    """Suggests given values, and the first choice or the low end for anything else."""

    given: Mapping[str, Any]

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The choice that was given, or the first."""
        return self.given.get(name, choices[0])

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """The number that was given, or the low end."""
        return self.given.get(name, low)


def check_points(space: PassSpace) -> int:
    """Construct a pass at the choices and ends of each dimension; how many. Raises OptionError that names the point."""
    count = 0
    for pass_ in space.points():
        count += 1
        if Pipeline.parse(str(pass_)).passes != (pass_,):
            raise OptionError(f"{pass_} does not read back from its text")
    return count
