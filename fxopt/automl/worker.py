"""A worker: asks the study for a recipe, has it climb the rungs, reports the result; until the search is over."""

from __future__ import annotations

import hashlib
import math
import random
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import optuna

from fxopt.automl import account
from fxopt.automl.apart import Apart, OutOfTime, TrialFailed, TrialRefused
from fxopt.automl.goals import Goals
from fxopt.automl.judge import Judge
from fxopt.automl.neighbours import elsewhere, neighbour
from fxopt.automl.records import KEY, PARENT, Record
from fxopt.automl.rungs import ladder
from fxopt.automl.space import Point, Space
from fxopt.automl.study import Study
from fxopt.automl.until import Until
from fxopt.errors import FxoptError, OptionError
from fxopt.support.machine_lock import held

_LEAST_SECONDS = 300.0
"""A rung may take this long at the least, and otherwise four times the longest so far."""
_SAME = 60
"""After so many known recipes in a row, the space is taken as exhausted."""
_STARTUP = 10
"""Random recipes before the sampler fits its model."""


class Worker:
    """One worker of a study on this machine, with an evaluator in a process of its own."""

    def __init__(
        self, study: Study, space: Space, goals: Goals, presets: list[Record], apart: Apart, seed: int, folder: Path
    ) -> None:
        self._study, self._space, self._goals, self._presets = study, space, goals, presets
        self._apart, self._seed = apart, seed
        self._lock = folder / "workers" / uuid.uuid4().hex
        self._longest, self._same = 0.0, 0
        self._until = Until()
        self._last: Record | None = None

    def run(self, until: Until, told: Callable[[Record], None]) -> None:
        """Work until the search is over; ``told`` is called for every finished trial."""
        self._until = until
        with held(self._lock):
            self._study.reclaim()
            self._study.reconsider(until.seconds, self._space)
            while not until.over(self._study.finished()) and self._same < _SAME:
                begun = self._study.begun()
                if not self._study.is_queued():
                    self._queue_next(begun)
                self._study.inner.sampler = self._sampler(begun)
                self._last = None
                self._study.inner.optimize(self._trial, n_trials=1, catch=(OutOfTime,))
                if self._last is not None:
                    told(self._last)

    def _queue_next(self, begun: int) -> None:
        """Queue the next preset, else a recipe of the front on another backend, else a neighbour, else nothing."""
        known = self._study.points()
        finished = account.done(self._study.records(), self._goals, self._original())
        best = account.best(finished, self._goals)
        preset = next((record for record in self._presets if record.point not in known), None)
        if preset is None and (point := elsewhere(best, known, self._space)) is not None:
            preset = Record(passes=point.passes, backend=point.backend)
        if preset is not None:
            self._study.enqueue(preset, self._space.parameters(preset.point))
        elif (near := neighbour(best, self._space, random.Random(f"{self._seed} {begun}"))) is not None:
            self._study.enqueue_neighbour(near)

    def _sampler(self, begun: int) -> optuna.samplers.BaseSampler:
        """TPE, seeded by the search's seed and its progress: a resumed search does not repeat its proposals."""
        seed = int.from_bytes(hashlib.sha256(f"{self._seed} {begun}".encode()).digest()[:4], "big")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of ``group``
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=_STARTUP)

    def _trial(self, trial: optuna.Trial) -> tuple[float, ...]:
        """The objective for optuna: raises TrialPruned where not all values are known, OutOfTime where the search ends first."""
        self._study.sign(trial, self._lock)
        record = self._begin(trial)
        began = time.monotonic()
        if record.why is None:
            try:
                self._climb(trial, record)
            except OutOfTime:
                self._study.again(self._study.inner.trials[trial.number])
                raise
            record.seconds = round(time.monotonic() - began, 2)
        violations = self._violations(record)
        for what, value in violations.items():
            trial.set_constraint(what, value)
        trial.set_user_attr(KEY, record.model_dump(mode="json"))
        self._last = record.model_copy(update={"number": trial.number})
        if any(what not in record.figures for what in self._goals.objectives):
            raise optuna.TrialPruned
        return self._goals.values(record.figures)

    def _begin(self, trial: optuna.Trial) -> Record:
        """The recipe to try: queued as text, or suggested by the sampler; a known one has its figures."""
        queued = trial.user_attrs.get(KEY)
        space = self._space.around(trial.user_attrs.get(PARENT, ()))
        try:
            point = space.suggest(trial, self._goals.shares(self._original()))
        except OptionError as error:
            if queued is None:
                return Record(passes=(), backend="", why="refused", reason=str(error))
            point = Point((), "")
        record = Record(**queued) if queued else Record(passes=point.passes, backend=point.backend)
        trial.set_user_attr(KEY, record.model_dump(mode="json"))
        if (other := self._study.under_way(record.point, trial.number)) is not None:  # both workers were to queue it
            return record.model_copy(update={"why": "behind", "reason": f"trial {other} was trying the same"})
        again = ("failed", "time") if queued else ("failed",)  # the search has more time than it had
        same = next((r for r in self._study.records() if r.point == record.point and r.why not in again), None)
        self._same = self._same + 1 if same else 0
        return same.model_copy(update={"seconds": 0.0}) if same and record.why is None else record

    def _climb(self, trial: optuna.Trial, record: Record) -> None:
        """Climb rung by rung, until a limit is missed, others are better, or the top."""
        try:
            rungs = ladder(record.point, self._space)
            judge = Judge(self._study, self._goals, self._until, record, rungs)
            for at, rung in enumerate(rungs):
                if judge.skips(at):
                    continue
                answer = self._apart.call(
                    "run", record.point, rung, deadline=self._until.deadline, seconds=self._patience()
                )
                record.figures |= answer.pop("figures")
                record.spent[rung.name] = round(answer.pop("seconds"), 3)
                record.epoch_seconds = round(answer.pop("epoch_seconds", 0.0), 3)
                record.rungs[rung.name] = dict(record.figures)
                if rung is rungs[-1]:
                    record.runs_on, record.kept = answer["backend"], answer["kept"]
                    record.held_out, record.why = answer["held_out"], "done"
                elif (stop := judge.stops(at)) is not None:
                    record.why, record.reason = stop
                if record.why is not None:
                    return
                trial.set_user_attr(KEY, record.model_dump(mode="json"))
        except (TrialRefused, FxoptError) as error:
            record.why, record.reason = "refused", str(error)
        except TrialFailed as error:
            record.why, record.reason = "failed", str(error)

    def _patience(self) -> float:
        seconds = [r.seconds for r in self._study.records()]
        return max(_LEAST_SECONDS, 4 * max(seconds, default=0.0))

    def _violations(self, record: Record) -> dict[str, float]:
        """For the sampler: at most 0 where a limit is kept; ``legal`` for recipes that failed or cannot be built."""
        legal = 1.0 if record.why in ("refused", "failed") else -1.0
        found = self._goals.violations(record.figures, self._original()) if record.figures else {}
        return {"legal": legal, **{what: squashed(value) for what, value in found.items()}}

    def _original(self) -> dict[str, float]:
        figures: dict[str, float] = self._study.baseline["figures"]
        return figures


def squashed(violation: float) -> float:
    """A violation whose size beyond 1 counts as its logarithm, so that no limit drowns the others in their sum."""
    return violation if violation <= 1 else 1 + math.log(violation)
