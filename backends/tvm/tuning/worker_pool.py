"""Processes that time kernels, kept from trial to trial. While one is timing, the others are stopped, so as not to disturb it."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait

from fxopt.backends.remote.child import Child
from fxopt.backends.tvm.tuning.job import Job, Lost, Times
from fxopt.backends.tvm.tuning.worker import main
from fxopt.errors import BackendError

_START = 120.0
"""Seconds for a process to start: importing TVM takes seconds, and many of them where other processes use the cores."""


@dataclass(frozen=True)
class Answer:
    """The result of a job: its times, or why it ``failed``, or that its device was ``lost``, which is not the job's fault."""

    name: str
    times: Times | None
    failed: str = ""
    lost: str = ""


class Workers:
    """``count`` workers, each with one job at a time; a job that takes longer than ``patience`` seconds is given up.

    A worker whose device is lost is not replaced.
    ``alone``: only one may be timing, as on this machine; not where each has a device of its own. A context manager: the
    processes end with it, and with this process if it is killed.
    """

    def __init__(
        self, count: int, patience: float = 20.0, main: Callable[[], object] = main, *, alone: bool = True
    ) -> None:
        self.patience, self.main, self.alone = patience, main, alone
        self._all = [_Worker(main) for _ in range(count)]
        self._timing: _Worker | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._all:
            worker.kill()

    @property
    def idle(self) -> int:
        """Workers without a job."""
        return sum(worker.name is None for worker in self._all)

    @property
    def busy(self) -> int:
        """Workers with a job."""
        return len(self._all) - self.idle

    def start(self, name: str, job: Job) -> None:
        """Give a job to an idle worker, preferably the one of the last job of this name, which has the rival compiled."""
        for i, worker in enumerate(self._all):
            if worker.name is None and worker.dead:  # ended by something else than a job
                self._all[i] = _Worker(self.main)
        free = [worker for worker in self._all if worker.name is None]
        worker = next((w for w in free if name in w.had), min(free, key=lambda w: len(w.had)))
        worker.begin(name, job)

    def answers(self, seconds: float) -> list[Answer]:
        """Wait for about ``seconds`` or until a job is done. Raises BackendError where workers do not start."""
        self._let_one_time()
        limits = [worker.deadline(self.patience) for worker in self._all if worker.running]
        until = min([time.monotonic() + seconds, *limits])
        ready = wait([worker.connection for worker in self._all if worker.running], max(0.0, until - time.monotonic()))
        found = [answer for worker in self._all if worker.connection in ready for answer in self._hear(worker)]
        for worker in self._all:
            if worker.running and time.monotonic() > worker.deadline(self.patience) and worker.connection not in ready:
                found.append(self._give_up(worker, f"gave no answer within {self.patience:g} s"))
        self._let_one_time()
        return found

    def _hear(self, worker: _Worker) -> list[Answer]:
        try:
            word = worker.connection.recv()
        except (EOFError, OSError):
            return [self._give_up(worker, worker.end())]
        if word == "ready":
            worker.hello()
            return []
        if word == "compiled":
            worker.compiled = True
            return []
        self._done_timing(worker)
        name, worker.name, worker.compiled = worker.name, None, False
        assert name is not None
        if isinstance(word, Lost):
            worker.kill()
            self._all.remove(worker)
            return [Answer(name, None, lost=word.reason)]
        return [Answer(name, word)] if isinstance(word, Times) else [Answer(name, None, str(word))]

    def _give_up(self, worker: _Worker, reason: str) -> Answer:
        self._done_timing(worker)
        name = worker.name
        if not worker.ready:
            raise BackendError(f"a process that times kernels does not start: {reason}\n{worker.complaint()}")
        assert name is not None
        worker.kill()
        self._all[self._all.index(worker)] = _Worker(self.main)
        return Answer(name, None, reason)

    def _let_one_time(self) -> None:
        if not self.alone:
            for worker in self._all:
                if worker.compiled:
                    worker.go()
        elif self._timing is None:
            self._timing = next((worker for worker in self._all if worker.compiled), None)
            if self._timing is None:
                return
            for other in self._all:
                if other is not self._timing and other.name is not None and not other.compiled:
                    other.stop()
            self._timing.go()

    def _done_timing(self, worker: _Worker) -> None:
        if self._timing is worker:
            self._timing = None
            for other in self._all:
                other.go_on()


class _Worker:
    """A process and the state of its job: starting, ``ready``, working on ``name``, ``compiled`` and waiting to time, timing.

    It sends "ready" once, "compiled" for each job, and then its answer; it times when told to ``go``. While another one is
    timing it is stopped, in every state but ``compiled``, and the clock of its job with it.
    """

    def __init__(self, main: Callable[[], object]) -> None:
        self._child = Child(main)
        self.connection = self._child.connection
        self.name: str | None = None
        self.had: set[str] = set()
        self.ready = self.compiled = False
        self._job: Job | None = None
        self._since, self._stopped = time.monotonic(), 0.0

    @property
    def running(self) -> bool:
        """Whether its next message comes without waiting for ``go``."""
        return not self._stopped and (not self.ready or (self.name is not None))

    def deadline(self, patience: float) -> float:
        """When to give up on it; never while it waits for its turn to time."""
        if self.compiled:
            return float("inf")
        return self._since + (patience if self.ready else _START)

    @property
    def dead(self) -> bool:
        """Whether a process that started has ended."""
        return self.ready and self._child.process.poll() is not None

    def begin(self, name: str, job: Job) -> None:
        self.name, self._job = name, job
        self.had.add(name)
        if self.ready:
            self._send(job)

    def hello(self) -> None:
        self.ready = True
        if self._job is not None:
            self._send(self._job)

    def go(self) -> None:
        self.compiled = False
        self._send("go")

    def _send(self, what: object) -> None:
        self._since = time.monotonic()
        with contextlib.suppress(OSError):  # if it died, the closed connection is heard next
            self.connection.send(what)

    def stop(self) -> None:
        """Stop the process, and the clock of its job."""
        if sys.platform == "linux" and self.ready and not self._stopped:
            self._child.process.send_signal(signal.SIGSTOP)
            self._stopped = time.monotonic()

    def go_on(self) -> None:
        if self._stopped:
            self._child.process.send_signal(signal.SIGCONT)
            self._since += time.monotonic() - self._stopped
            self._stopped = 0.0

    def end(self) -> str:
        return self._child.end()

    def complaint(self) -> str:
        return self._child.complaint()

    def kill(self) -> None:
        self._child.kill()
