"""The first call of a candidate in a subprocess, to isolate crashes, hangs and running out of memory."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from fxopt import registry
from fxopt.backend import Backend, find_backend
from fxopt.runtime.artifact import load_for
from fxopt.support.fresh_process import fresh_process
from fxopt.target.detect import host


def fails_alone(folder: Path, backend: Backend, seconds: float) -> str | None:
    """Why an artifact, loaded by ``backend``, does not answer within ``seconds``; None if it does.

    A raised error is no reason: it will be raised again in this process, with better context. A backend from a file given
    with ``--load`` is unknown to other processes, and is not tried.
    """
    if backend.name not in registry.registered("backend"):
        return None
    try:
        done = subprocess.run(
            fresh_process(call, str(folder), str(backend)),
            capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"its first call takes longer than {seconds:.0f} s"
    return (
        f"its first call ends the process by {signal.Signals(-done.returncode).name}" if done.returncode < 0 else None
    )


def call() -> None:
    """In that process: load the artifact in the folder, by the backend whose text form is given, and call it once."""
    folder, backend = sys.argv[1:]
    model = load_for(Path(folder), host(), find_backend(backend))
    args, kwargs = model.random_inputs()
    model(*args, **kwargs)


_PEAK = """
import sys
import fxopt
model = fxopt.load(sys.argv[1])
args, kwargs = model.random_inputs()
for _ in range(3):
    model(*args, **kwargs)
try:  # the figure of getrusage would include the process this one was forked from
    lines = open("/proc/self/status").read().splitlines()
    print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))
except OSError:
    import resource
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


def peak_memory(folder: Path) -> int | None:
    """Peak resident bytes of a fresh process that loads an artifact and runs it three times; None if it fails."""
    done = subprocess.run([sys.executable, "-c", _PEAK, str(folder)], capture_output=True, text=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.strip() else None
