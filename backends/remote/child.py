"""A process that talks through a pipe, and ends with its parent: what hangs or crashes in it does not take the build along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from fxopt.support.fresh_process import fresh_process


class Child:
    """A process that runs ``main``, with its end of ``connection`` and ``arguments``; see :func:`parents_end`."""

    def __init__(self, main: Callable[[], object], *arguments: str) -> None:
        self.connection, theirs = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            fresh_process(main, str(theirs.fileno()), str(os.getpid()), *arguments),
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors,
        )  # fmt: skip
        theirs.close()

    def end(self) -> str:
        """How the process ended."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def complaint(self) -> str:
        """The end of what it wrote to its output."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-2000:]

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self._errors.close()


def parents_end() -> tuple[Connection, list[str]]:
    """In a child, before anything else: the connection to its parent, and the arguments. It ends when the parent does."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    return Connection(descriptor), sys.argv[3:]


def hide_torch() -> None:
    """Before TVM is imported, which would import torch, and that takes seconds."""
    sys.modules["torch"] = None  # type: ignore[assignment]


def die_with(parent: int) -> None:
    """End when the parent ends, even killed, and even while stopped; elsewhere than on Linux the closed connection does it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit()
