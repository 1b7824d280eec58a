"""Kernel locks on open files and folders: the system releases them when the process ends, however it ends."""

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
    """Lock an open file, exclusively or ``shared``; yield whether that succeeded.

    It fails where another process has the lock and ``wait`` is off, where the file system has no locks, and on Windows.
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
