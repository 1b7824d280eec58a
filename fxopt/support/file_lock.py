"""Locks of the kernel on open files and folders: the system lets go when the process ends, however it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows has none
    HAS_LOCKS = False
else:
    HAS_LOCKS = True


@contextlib.contextmanager
def locked(descriptor: int, *, shared: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold an open file, alone or ``shared``; whether it could be had.

    It cannot where another process holds it and ``wait`` is off, where the disk knows no locks, and where there are none.
    """
    held = False
    if HAS_LOCKS:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            held = True
    try:
        yield held
    finally:
        if held:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
