"""The evaluator in a process of its own: one that crashes, hangs or eats memory is ended, and the next call starts another."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fxopt.automl.evaluator import Evaluator, Task
from fxopt.errors import BackendError, CaptureError, DeviceError, FxoptError, UsageError, text_of
from fxopt.support.fresh_process import fresh_process

_POLL = 0.2


class TrialFailed(Exception):
    """A call failed for a reason that may not recur: a crash, a time-out, memory, a device."""


class TrialRefused(Exception):
    """The recipe cannot be built, for a reason that will always be the same; the text says it."""


class OutOfTime(Exception):
    """The time that the search was given is over."""


class Apart:
    """Calls methods of an :class:`Evaluator` in another process, with limits of time in seconds and of memory in bytes."""

    def __init__(self, task: Task, log: Path, memory: int | None = None) -> None:
        self._task, self._log = task, log
        self._memory = memory or _available() * 4 // 5
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Any = None
        self._latency: float | None = None

    def call(self, method: str, *args: Any, deadline: float | None = None, seconds: float | None = None) -> Any:
        """The method's result. Raises TrialRefused, TrialFailed, OutOfTime at ``deadline``, a time of :func:`time.monotonic`.

        An error of the model itself, in starting, is raised as it is.
        """
        if self._process is None:
            self._start()
            self._answer(None, None)
            if self._latency is not None:
                self.call("resume", self._latency)
        self._pipe.send((method, args))
        return self._answer(deadline, None if seconds is None else time.monotonic() + seconds)

    def resume(self, latency_ms: float | None) -> None:
        """Set the latency of the reference, for this process and its successors."""
        self._latency = latency_ms
        if self._process is not None:
            self.call("resume", latency_ms)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            os.close(self._lifeline)
            self._pipe.close()
            self._process = None

    def _start(self) -> None:
        self._pipe, theirs = multiprocessing.connection.Pipe()
        reading, self._lifeline = os.pipe()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                fresh_process(serve, str(theirs.fileno()), str(reading)),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(theirs.fileno(), reading),
                start_new_session=True,
            )  # fmt: skip
        theirs.close()
        os.close(reading)
        self._pipe.send(self._task)

    def _answer(self, deadline: float | None, until: float | None) -> Any:
        assert self._process is not None
        while not self._pipe.poll(_POLL):
            now = time.monotonic()
            if deadline is not None and now > deadline:
                self.close()
                raise OutOfTime
            if until is not None and now > until:
                self.close()
                raise TrialFailed("it took longer than a trial may take")
            if _resident(self._process.pid) > self._memory:
                self.close()
                raise TrialFailed(f"it took more than {self._memory / 1e9:.1f} GB of memory")
        try:
            kind, value = self._pipe.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            self.close()
            raise TrialFailed(
                f"its process ended by {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
            ) from None
        if kind == "result":
            return value
        if kind == "start":
            self.close()
            raise value
        raise (TrialRefused if kind == "refused" else TrialFailed)(value)


def serve() -> None:
    """In that process: create the evaluator, then answer calls until the connection closes."""
    pipe = multiprocessing.connection.Connection(int(sys.argv[1]))
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    task = pipe.recv()
    try:
        evaluator = Evaluator(task)
    except Exception as error:
        pipe.send(("start", _portable(error)))
        return
    pipe.send(("result", None))
    while True:
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        pipe.send(_outcome(evaluator, method, args))


def _outcome(evaluator: Evaluator, method: str, args: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "result", getattr(evaluator, method)(*args)
    except (MemoryError, OSError, DeviceError) as error:
        return "failed", f"{type(error).__name__}: {text_of(error)}"
    except FxoptError as error:
        return "refused", f"{type(error).__name__}: {error}"
    except Exception as error:  # of a runtime or a plugin's backend
        return "failed", f"{type(error).__name__}: {text_of(error)}"


def _portable(error: Exception) -> Exception:
    """The error, or one of its kind with its text where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        kind = next((k for k in (CaptureError, BackendError, UsageError) if isinstance(error, k)), FxoptError)
        return kind(text_of(error) if isinstance(error, FxoptError) else f"{type(error).__name__}: {text_of(error)}")
    return error


def _end_with(lifeline: int) -> None:
    """End this process as soon as its parent has ended, however that ended."""
    os.read(lifeline, 1)
    os._exit(1)


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _available() -> int:
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return 1 << 62
