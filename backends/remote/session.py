"""A session of a device: a process that answers one client, in a folder of its own, as long as both are there."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

from fxopt.backends.remote.child import die_with
from fxopt.support.scratch import scratch_folder

_LOOK = 1.0
"""Seconds between two looks whether the other end of a session is there."""


class Session:
    """The session of a connection whose greeting was accepted; it ends after ``seconds``, None for never."""

    def __init__(self, connection: socket.socket, seconds: float | None, forget: Callable[[], None]) -> None:
        """``forget`` is called in the new process, to close what belongs to the server."""
        self.connection = connection
        self._files = contextlib.ExitStack()
        folder = self._files.enter_context(scratch_folder())
        self.ends = None if seconds is None else time.monotonic() + seconds
        self._process = multiprocessing.get_context("fork").Process(
            target=_answer, args=(connection, str(folder), os.getpid(), forget)
        )
        self._process.start()

    @property
    def sentinel(self) -> int:
        """A descriptor that can be read when the process has ended."""
        return self._process.sentinel

    def close(self) -> str | None:
        """End it, also where it did not end by itself, and say what went wrong in it."""
        if self._process.is_alive():
            from tvm.rpc import _ffi_api

            told = "its time is over, and it was ended"
            _ffi_api.ReturnException(self.connection.fileno(), f"RPCSessionTimeoutError: the session's {told}")
        else:
            code = self._process.exitcode or 0
            told = f"a process of it ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            told = told if code else ""
        self.kill()
        return told or None

    def kill(self) -> None:
        """End its processes at once, and remove its files."""
        try:
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self._process.kill()
        self._process.join()
        self.connection.close()
        self._files.close()


def _answer(connection: socket.socket, folder: str, parent: int, forget: Callable[[], None]) -> None:
    """In the process of a session: do what TVM's client asks."""
    os.setpgid(0, 0)  # what it starts ends with it
    die_with(parent)
    forget()
    from tvm.rpc import server
    from tvm.support.utils import TempDirectory

    work = TempDirectory(os.path.join(folder, "work"))
    os.chdir(work.temp_dir)  # names of files in questions are of this folder
    threading.Thread(target=_end_without, args=(connection,), daemon=True).start()
    server._serve_loop(connection, None, work)


def _end_without(connection: socket.socket) -> None:
    """End the process when the other end is gone: a session that hangs would keep the device from all others."""
    while True:
        time.sleep(_LOOK)
        try:
            if not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                break
        except BlockingIOError:
            continue
        except OSError:
            break
    time.sleep(_LOOK)  # it ends by itself, unless it hangs
    os._exit(1)
