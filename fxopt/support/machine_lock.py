"""Whether this machine may be busy: many processes may work at once, and one that measures has it alone."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def _path() -> Path:
    return Path(tempfile.gettempdir()) / f"fxopt-machine-{os.getuid() if hasattr(os, 'getuid') else 'all'}.lock"


@contextlib.contextmanager
def machine(*, alone: bool) -> Iterator[None]:
    """Hold the machine while it works, together with others or ``alone``; waits until that is free.

    The kernel holds the lock and frees it when the process ends, however it ends. Where there are no such locks, as on
    Windows, nothing is held.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with _path().open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a file of one's own, so that others see that this process is alive. See :func:`is_held`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_held(path: Path) -> bool:
    """Whether a living process of this machine holds a file."""
    try:
        import fcntl

        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False
