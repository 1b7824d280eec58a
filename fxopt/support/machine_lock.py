"""A lock on this machine: processes that work share it, one that measures has it exclusively."""

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
    """Lock the machine, shared or ``alone``; waits until that is possible.

    Where there are no locks, nothing is locked.
    """
    with _path().open("a") as file, locked(file.fileno(), shared=not alone):
        yield


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Lock a file of one's own, so that others see that this process is alive. See :func:`is_held`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file, locked(file.fileno()):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a live process of this machine has locked a file."""
    try:
        with path.open("r") as file, locked(file.fileno(), shared=True, wait=False) as free:
            return HAS_LOCKS and not free
    except OSError:
        return False
