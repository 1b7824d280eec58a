"""Tiles for the kernels of a model, by measurement: which task to try next, until the time or the trials are out.

The next trial goes to the task with the largest expected gain: by its part of the model's time, and its recent wins. It is the
idea of Zheng et al., "Ansor" (OSDI 2020), section 6, without its round over all tasks: each task gets one first trial, and one
that takes little time gets few more. Which take little is known once each was timed: until then no task has a second trial.

Kernels without products (norms, softmax, pools, data movement) are scheduled by rule and are no tasks. They take few percent of
a model's time, and MetaSchedule, which could search for them, finds none that is faster: see ``tests/bench/tvm_rest.py``.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from fxopt.backends.remote.address import Address
from fxopt.backends.remote.connect import devices_behind
from fxopt.backends.tvm.machine.processor import Processor
from fxopt.backends.tvm.tiling.task import Choices, Task
from fxopt.backends.tvm.tuning.database import Database
from fxopt.backends.tvm.tuning.job import Job
from fxopt.backends.tvm.tuning.proposals import propose
from fxopt.backends.tvm.tuning.trial import TaskRecord, Trial
from fxopt.backends.tvm.tuning.worker_pool import Answer, Workers

_PATIENCE = 6
"""Trials without a win that halve what a task is expected to gain."""
_NEGLIGIBLE = 0.002
"""Part of the time of all tasks below which a task is not tuned: twice as fast, it would save a thousandth."""
_GIVEN_UP = 4
"""Failed trials after which a task without any other is given up. Chosen, as the two above, and not measured apart:
``tests/bench/tvm_tuning.py`` shows the gain of a whole search."""
_REMOTE_PATIENCE = 180.0
"""Seconds for a trial on a device, which may be slow, or away for a minute."""
Watch = Callable[["Search", str], None]
"""Called after each trial."""


@dataclass
class Search:
    """A search over the tasks of a model, of which each is used ``uses`` times; goes on from the trials of the database.

    ``away``: seconds that a device may be away, to be started again, before it is given up.
    """

    choices: Choices
    database: Database
    threads: int
    seed: int = 0
    device: Address | None = None
    away: float = 60.0
    done: int = 0
    failed: int = 0
    lost: str = ""
    seen: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = [task for task in self.choices.tasks.values() if task.kernel is not None]
        self.processor: Processor = self.choices.processor
        self._busy: set[str] = set()

    def record(self, task: Task) -> TaskRecord:
        """The trials of a task so far."""
        return self.database[task.key]

    def milliseconds(self) -> float:
        """The sum of the best times of all timed tasks, each times its uses in the model."""
        return sum(self._cost(task) for task in self.tasks) * 1000

    def gain(self) -> float:
        """How many times faster that is than by rule, from the ratios of the winning trials."""
        before = sum(self._cost(task) / self.record(task).ratio for task in self.tasks)
        return before / now if (now := sum(map(self._cost, self.tasks))) else 1.0

    def next(self) -> tuple[Task, Job] | None:
        """The next trial; None if none is worth it while the present ones run."""
        free = [task for task in self.tasks if task.key not in self._busy]
        least = math.inf if any(self.record(self.choices.tasks[key]).best is None for key in self._busy) else 0.0
        for task in sorted(free, key=self._promise, reverse=True):
            record = self.record(task)
            if (promise := self._promise(task)) <= 0 or promise < least:
                return None
            tile = propose(task, self.processor, record, self.seed)
            if tile is not None and task.kernel is not None:
                seen, on = self.seen.get(task.key, math.inf), (self.device, self.away)
                return task, Job(task.kernel, tile, record.best, self.processor, self.threads, seen, *on)
        return None

    def run(self, seconds: float, trials: int | None, watch: Watch, workers: Workers) -> None:
        """Try tiles for about ``seconds``, at most ``trials``. Raises OSError where a trial cannot be stored."""
        end = time.monotonic() + seconds
        running: dict[str, Job] = {}
        begun = 0
        while True:
            while workers.idle and time.monotonic() < end and (trials is None or begun < trials):
                if (found := self.next()) is None:
                    break
                task, job = found
                running[task.key] = job
                self._busy.add(task.key)
                workers.start(task.key, job)
                begun += 1
            if not running or time.monotonic() > end + workers.patience:
                return
            for answer in workers.answers(0.5):
                self._busy.discard(answer.name)
                self._note(answer, running.pop(answer.name))
                watch(self, answer.name)

    def _note(self, answer: Answer, job: Job) -> None:
        if answer.lost:
            self.lost = answer.lost
            return
        self.done += 1
        self.failed += bool(answer.failed)
        times = answer.times
        if times is None:
            trial = Trial(job.tile, failed=answer.failed, seed=self.seed)
        else:
            trial = Trial(job.tile, times.seconds, job.rival, times.rival, times.won, seed=self.seed)
            least = times.seconds if times.won or times.rival is None else times.rival
            self.seen[answer.name] = min(self.seen.get(answer.name, math.inf), least)
        self.database.add(answer.name, trial)

    def _cost(self, task: Task) -> float:
        return self.choices.uses[task.key] * self.record(task).seconds

    def _promise(self, task: Task) -> float:
        """The expected saving of another trial, up to a factor; infinite for a task that was not timed yet."""
        record = self.record(task)
        if record.best is None:
            return float("inf") if len(record.trials) < _GIVEN_UP else 0.0
        if self._cost(task) < _NEGLIGIBLE * sum(map(self._cost, self.tasks)):
            return 0.0
        since = next((i for i, trial in enumerate(reversed(record.trials)) if trial.won), len(record.trials))
        return self._cost(task) * 0.5 ** (since / _PATIENCE)


def search(
    choices: Choices,
    database: Database,
    threads: int,
    seconds: float,
    trials: int | None,
    seed: int,
    device: Address | None = None,
    away: float = 60.0,
) -> Search:
    """Search, with a progress bar that shows the best so far; return the search.

    Kernels are timed by as many processes as there are cores, or on a ``device``, or on all those behind a tracker at once. One
    that is ``away`` for so many seconds is given up.
    A database that cannot be written, and devices that are all lost, end the search with a warning: its results so far are
    used. Raises DeviceError where there is no device to begin with.
    """
    from fxopt.support.progress import progress_bar

    found = Search(choices, database, threads, seed, device, away)
    begun, shown = time.monotonic(), 0
    if not found.tasks or trials == 0 or found.next() is None:
        return found
    with progress_bar("tune", max(1, int(seconds))) as advance:

        def watch(search: Search, key: str) -> None:
            nonlocal shown
            now = min(int(time.monotonic() - begun), int(seconds))
            best = f"{search.milliseconds():.3g} ms of kernels, {search.gain():.2f}x by trials"
            advance(now - shown, f"tune: {search.done} trials; {best}; {key} {1 / database[key].ratio:.2f}x")
            shown = now

        try:
            with _workers(len(found.tasks), device) as workers:
                found.run(seconds - (time.monotonic() - begun), trials, watch, workers)
        except OSError as error:
            warnings.warn(f"tuning stopped: {database.path}: {error}; what it holds is used", stacklevel=2)
    if found.lost:
        warnings.warn(f"tuning lost a device: {found.lost}; what was found until then is used", stacklevel=2)
    return found


def _workers(tasks: int, device: Address | None) -> Workers:
    from fxopt.target.detect import usable_cores

    if device is None:
        return Workers(min(usable_cores(), tasks))
    return Workers(min(devices_behind(device), tasks), _REMOTE_PATIENCE, alone=False)
