"""Addresses of this machine that nobody uses, and a tracker at one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def free_address() -> str:
    return f"rpc://127.0.0.1:{free_port()}"


@contextlib.contextmanager
def tracker() -> Iterator[str]:
    """TVM's tracker, until the block ends; gives its address."""
    port = free_port()
    command = [sys.executable, "-m", "tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--port-end", str(port + 1), "--silent"], start_new_session=True)
    try:
        end = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < end
            time.sleep(0.1)
        yield f"tracker://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
