"""A candidate's first call, in a process of its own: one that crashes, hangs or eats memory costs that candidate alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from fxopt import registry
from fxopt.artifact import load_for
from fxopt.backend import Backend, find_backend
from fxopt.fresh_process import fresh_process
from fxopt.target import host


def fails_alone(folder: Path, backend: Backend, seconds: float) -> str | None:
    """Why an artifact, loaded by ``backend``, does not give an answer within ``seconds``; None if it does.

    An error that is raised is no reason: it is raised again where it can be told better. A backend of a file given with
    ``--load`` is not known to another process, and is not tried out.
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
