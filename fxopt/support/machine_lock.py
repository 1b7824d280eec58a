"""Whether this machine may be busy: many processes may work at once, and one that measures has it alone."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fxopt.support.file_lock import HAS_LOCKS, locked


def _path() -> Path:
    return Path(tempfile.gettempdir()) / f"fxopt-machine-{os.getuid() if hasattr(os, 'getuid') else 'all'}.lock"


@contextlib.contextmanager
def machine(*, alone: bool) -> Iterator[None]:
    """Hold the machine while it works, together with others or ``alone``; waits until that is free.

    Where there are no locks, nothing is held.
    """
    with _path().open("a") as file, locked(file.fileno(), shared=not alone):
        yield


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a file of one's own, so that others see that this process is alive. See :func:`is_held`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file, locked(file.fileno()):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a living process of this machine holds a file."""
    try:
        with path.open("r") as file, locked(file.fileno(), shared=True, wait=False) as free:
            return HAS_LOCKS and not free
    except OSError:
        return False
