"""What runs on the device: TVM's server, which answers one session after the other, each in a process of its own."""

from __future__ import annotations

import functools
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from fxopt.backends.remote.address import Address
from fxopt.backends.remote.child import die_with, hide_torch
from fxopt.backends.remote.service import register
from fxopt.errors import DeviceError, UsageError

_LOOK = 1.0
"""Seconds between two looks whether the other end of a session is there."""
_PORTS = range(9090, 9200)
"""Where a device behind a tracker listens: the first of these that is free."""


def serve(address: Address, say: Callable[[str], None]) -> None:
    """Serve until stopped: at the address, or for the tracker that has it. Raises UsageError and DeviceError.

    TVM's loop ends with a session whose process crashed, in that session's folder; here the next one is served all the same.
    """
    hide_torch()
    from tvm.rpc import server

    os.environ.setdefault("TVM_BIND_THREADS", "0")
    os.environ.setdefault("TVM_NUM_THREADS", str(os.cpu_count() or 1))
    register()
    _sessions_end_with_this_process()
    server._serve_loop = functools.partial(_while_connected, server._serve_loop)
    here = address.host if address.key is None else "0.0.0.0"
    listening, port = _listen(here, range(address.port, address.port + 1) if address.key is None else _PORTS)
    tracker = None if address.key is None else (address.host, address.port)
    behind = "" if tracker is None else f", for the tracker at {address.host}:{address.port} as {address.key}"
    say(f"serving at {here}:{port}{behind}; Ctrl-C ends it")
    home = os.getcwd()
    while True:
        try:
            server._listen_loop(listening, port, address.key or "", tracker, None, None)
        except RuntimeError as error:
            if "not RPC Tracker" in str(error):
                raise DeviceError(f"what is at {address.host}:{address.port} is no tracker of TVM") from None
            say(f"a session ended badly: {error}; serving on")
            os.chdir(home)


def _listen(host: str, ports: range) -> tuple[socket.socket, int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            listening.close()
            last = error
            continue
        listening.listen(1)
        return listening, port
    raise UsageError(f"cannot serve at {host}:{ports[0]}: {last.strerror}; give another port: rpc://{host}:PORT")


def _while_connected(serve_session: Callable[..., None], connection: socket.socket, *rest: object) -> None:
    """Serve a session, but no longer than its other end is there: one that hangs would keep the device from all others."""

    def watch() -> None:
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

    threading.Thread(target=watch, daemon=True).start()
    serve_session(connection, *rest)


def _sessions_end_with_this_process() -> None:
    """TVM forks a process for each session: it must not outlive the server, and hold its client's connection."""
    if sys.platform == "linux":
        multiprocessing.set_start_method("fork", force=True)
        parent = os.getpid()
        os.register_at_fork(after_in_child=lambda: die_with(parent) if os.getppid() == parent else None)
