"""The study in its storage: created or joined, its settings checked, stale trials returned to the queue.

SQLite in the folder of the search on one machine; any URL that optuna takes for several, where the same command on each
machine joins. A trial runs on at most one worker at a time; if that dies, another begins the trial again.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from fxopt.automl.neighbours import Neighbour
from fxopt.automl.records import KEY, PARENT, Record, record_of
from fxopt.automl.space import Point, Space
from fxopt.errors import UsageError, last_line
from fxopt.support.machine_lock import is_held

SCHEMA_VERSION = 1
_HEARTBEAT, _GRACE = 10, 40
"""Seconds between heartbeats of a worker, and without any until its trial is returned to the queue."""
_TRIES, _PAUSE = 5, 0.5
"""How often a storage is opened until it counts as unusable, and the seconds between."""
_ATTEMPTS = 3
"""How many times a trial may end its worker."""
_SETTINGS, _BASELINE, _PRESETS, _SECONDS = "settings", "baseline", "presets", "seconds"
_WORKER, _RETRIES = "worker", "retries"
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Study:
    """A study of optuna, with the operations of this search. Raises UsageError where the storage cannot be used."""

    def __init__(self, url: str, name: str, objectives: int, folder: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._workers, self._local = folder / "workers", url.startswith("sqlite")
        with _storage_errors(url), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self.inner = self._opened(url, name, objectives)

    def _opened(self, url: str, name: str, objectives: int) -> optuna.Study:
        """The study, created if it does not exist; of workers that create its tables at once, all but one fail and retry."""
        for left in reversed(range(_TRIES)):
            try:
                storage = optuna.storages.RDBStorage(
                    url, heartbeat_interval=_HEARTBEAT, grace_period=_GRACE,
                    heartbeat_stale_trial_callback=lambda _, trial: self.again(trial),
                    engine_kwargs={"connect_args": {"timeout": 60}} if self._local else {},
                )  # fmt: skip
                return optuna.create_study(
                    storage=storage, study_name=name, directions=["minimize"] * objectives, load_if_exists=True
                )
            except (SQLAlchemyError, StorageInternalError):
                if not left:
                    raise
                time.sleep(_PAUSE)
        raise AssertionError("the last try returns or raises")

    def begin(self, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Figures of the original: measured now for a new study, stored for an older one.

        Raises UsageError where it was begun with other settings.
        """
        settings = {"schema_version": SCHEMA_VERSION, **settings}
        known: dict[str, Any] | None = self.inner.user_attrs.get(_SETTINGS)
        if known is None:
            baseline = measure()
            if _BASELINE not in self.inner.user_attrs:  # another worker may have been quicker
                self.inner.set_user_attr(_BASELINE, baseline)
            self.inner.set_user_attr(_SETTINGS, settings)
            return self.baseline
        if differing := [key for key in settings if known.get(key) != settings[key]]:
            key = differing[0]
            raise UsageError(
                f"the search {self.inner.study_name!r} was begun with other settings: {', '.join(differing)}",
                expected=f"{key} {known.get(key)!r}",
                got=f"{key} {settings[key]!r}",
                way_out="give the settings that it was begun with, or another --out for a search of its own",
            )
        return self.baseline

    @property
    def baseline(self) -> dict[str, Any]:
        """Figures of the original, as measured by the first worker."""
        found: dict[str, Any] = self.inner.user_attrs[_BASELINE]
        return found

    def presets(self, found: list[Record]) -> list[Record]:
        """Recipes to begin with: those ``found`` when the study was begun, whatever is found later."""
        known: list[dict[str, Any]] | None = self.inner.user_attrs.get(_PRESETS)
        if known is None:
            known = [record.model_dump(mode="json") for record in found]
            self.inner.set_user_attr(_PRESETS, known)
        return [Record(**record) for record in known]

    def records(self) -> list[Record]:
        """Records of all trials that came to an end, in order."""
        trials = self.inner.get_trials(deepcopy=False, states=_FINISHED)
        return [record for trial in trials if (record := record_of(trial)) is not None]

    def begun(self) -> int:
        """How many trials were begun, without those returned to the queue."""
        return len(self.inner.get_trials(deepcopy=False, states=(*_FINISHED, TrialState.RUNNING)))

    def is_queued(self) -> bool:
        """Whether a recipe waits for a worker."""
        return bool(self.inner.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def points(self) -> set[Point]:
        """The recipes that came to an end, are under way, or are queued."""
        trials = self.inner.get_trials(deepcopy=False, states=(*_FINISHED, TrialState.RUNNING, TrialState.WAITING))
        return {record.point for trial in trials if (record := record_of(trial)) is not None}

    def finished(self) -> int:
        """How many trials came to an end."""
        return len(self.inner.get_trials(deepcopy=False, states=_FINISHED))

    def under_way(self, point: Point, before: int) -> int | None:
        """The number of an unfinished trial of a recipe, of those before a number; None if there is none."""
        trials = self.inner.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING))
        found = (t.number for t in trials if (record := record_of(t)) is not None and record.point == point)
        return min((number for number in found if number < before), default=None)

    def sign(self, trial: optuna.Trial, worker: Path) -> None:
        """Say whose trial it is."""
        trial.set_user_attr(_WORKER, [socket.gethostname(), str(worker.resolve())])

    def reclaim(self) -> int:
        """Return trials to the queue whose worker on this machine is dead; return how many."""
        alone = self._local and sum(map(is_held, self._workers.glob("*"))) <= 1
        count = 0
        for trial in self.inner.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            host, worker = trial.user_attrs.get(_WORKER, (None, None))
            # one without a worker was interrupted before it was signed, or another worker is just signing it
            if (host == socket.gethostname() and not is_held(Path(worker))) or (host is None and alone):
                self.give_back(trial)
                count += 1
        return count

    def give_back(self, trial: FrozenTrial) -> None:
        """End an unfinished trial, and return it to the queue."""
        with contextlib.suppress(ValueError):  # another worker was quicker
            self.inner.tell(trial.number, state=TrialState.FAIL)
            self.again(trial)

    def enqueue(self, record: Record, parameters: dict[str, Any]) -> None:
        """Queue a recipe, as it is written."""
        self.inner.enqueue_trial(parameters, user_attrs={KEY: record.model_dump(mode="json")})

    def enqueue_neighbour(self, near: Neighbour) -> None:
        """Queue a neighbour of a recipe, for the sampler to draw what its changes entail."""
        self.inner.enqueue_trial(near.parameters, user_attrs={PARENT: near.passes})

    def reconsider(self, seconds: float | None, space: Space) -> None:
        """Queue the recipes again for which there was too little time, if the search has more than ever; None is no limit."""
        now, most = math.inf if seconds is None else seconds, self.inner.user_attrs.get(_SECONDS, 0.0)
        if now <= most:
            return
        self.inner.set_user_attr(_SECONDS, now)
        for record in {record.point: record for record in self.records()}.values():
            if record.why == "time":
                self.enqueue(record.anew(), space.parameters(record.point))

    def again(self, trial: FrozenTrial) -> None:
        """Queue the recipe of a returned trial; one that keeps ending its worker is given up."""
        retries = trial.user_attrs.get(_RETRIES, 0) + 1
        if not trial.params and KEY not in trial.user_attrs:
            return  # nothing was chosen yet
        attributes: dict[str, Any] = {_RETRIES: retries}
        if PARENT in trial.user_attrs:
            attributes[PARENT] = trial.user_attrs[PARENT]
        if (record := record_of(trial)) is not None:
            whole = retries < _ATTEMPTS
            fresh = record.anew()
            if not whole:
                fresh.why, fresh.reason = "failed", f"its worker ended {retries} times"
            attributes[KEY] = fresh.model_dump(mode="json")
        self.inner.enqueue_trial(trial.params, user_attrs=attributes)


@contextlib.contextmanager
def _storage_errors(url: str) -> Any:
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, RuntimeError, ImportError, ValueError) as error:
        raise UsageError(
            f"the storage {url} cannot be used: {last_line(getattr(error, 'orig', None) or error)}",
            way_out="storages are URLs such as sqlite:///search.db or postgresql+psycopg://user@host/name; a study of "
            "another version of optuna wants that version, or another --out",
        ) from error
