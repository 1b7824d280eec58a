"""The judge of a climb: which rungs a recipe climbs, and why it stops on one."""

from __future__ import annotations

from collections.abc import Sequence

from fxopt.automl.goals import LEARNED, Goals
from fxopt.automl.pareto import dominates
from fxopt.automl.promotion import promoted, share_of
from fxopt.automl.records import Record, Why
from fxopt.automl.rungs import Rung
from fxopt.automl.study import Study
from fxopt.automl.until import Until

_OF_THE_MODEL = ("given", "shipped")
"""Presets that were written for the model: they are trained however long it takes."""
_SLACK = 0.05
"""How far beyond a limit of latency, as a logarithm, a recipe may be to be timed again at the end."""


class Judge:
    """Judges one recipe on its rungs, by the limits, by the other recipes of the study, and by the time that is left.

    A preset is not compared with others, nor is a recipe whose passes have reached the top on another backend.
    """

    def __init__(self, study: Study, goals: Goals, until: Until, record: Record, rungs: Sequence[Rung]) -> None:
        self._study, self._goals, self._until, self._record, self._rungs = study, goals, until, record, rungs
        self._original: dict[str, float] = study.baseline["figures"]
        self._twins = [r for r in study.records() if r.passes == record.passes and r.why == "done"]
        self._exempt = record.preset is not None or bool(self._twins)

    def skips(self, at: int) -> bool:
        """Whether nothing would be decided on a rung, nor would a preset be trained there, for others to be compared with."""
        rung = self._rungs[at]
        return rung.compares and (self._share(at) == 1.0 or bool(self._twins) or (self._exempt and not rung.epochs))

    def stops(self, at: int) -> tuple[Why, str] | None:
        """Why a recipe with figures of a rung stops there; None where it goes on."""
        rung = self._rungs[at]
        if (missed := self._missed()) is not None:
            return "limit", missed
        if rung.compares and not self._exempt and not self._promoted(at):
            return "behind", f"not among the best at {rung.name}"
        if not self._until.has_time_for(self._seconds_of_next(at), at_any_price=self._record.preset in _OF_THE_MODEL):
            return "time", f"training for {self._rungs[at + 1].epochs} epochs takes too much of the time"
        if rung.name == "speed" and (better := self._better()) is not None:
            return "behind", f"the same passes are better on {better.backend}"
        return None

    def _missed(self) -> str | None:
        """The limit that a recipe cannot keep, as training does not change its quantity."""
        figures = self._record.figures
        for what, value in self._goals.violations(figures, self._original).items():
            slack = _SLACK if what == "latency_ms" else 1e-9
            if what not in LEARNED and value > slack:
                return f"{what} {figures[what]:.4g}, limit {self._goals.bound(what, self._original):.4g}"
        return None

    def _share(self, at: int) -> float | None:
        records, names = self._study.records(), [rung.name for rung in self._rungs[at : at + 2]]
        return share_of(self._rungs, at, {name: [r.spent[name] for r in records if name in r.spent] for name in names})

    def _promoted(self, at: int) -> bool:
        share, name = self._share(at), self._rungs[at].name
        others = {r.passes: r.rungs[name] for r in self._study.records() if r.why != "failed" and name in r.rungs}
        mine = self._record.rungs[name]
        return share is None or promoted(mine, list(others.values()), self._goals, self._original, share)

    def _seconds_of_next(self, at: int) -> float:
        """How long the next rung will train, by the seconds of an epoch in this one; 0 where this one did not train."""
        epochs = self._rungs[at].epochs
        return self._record.epoch_seconds * (self._rungs[at + 1].epochs - epochs) if epochs else 0.0

    def _better(self) -> Record | None:
        """One with the same passes that is better in all that its training does not change."""
        mine = self._goals.untrained(self._record.figures)
        return next((t for t in self._twins if dominates(self._goals.untrained(t.rungs["speed"]), mine)), None)
