"""A file of lines that are appended whole or not at all, by several processes at once, whatever ends one of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def append_line(path: Path, line: bytes) -> None:
    """Append a line, whole or not at all, and on a line of its own even behind one that was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        with _locked(descriptor):
            end = os.fstat(descriptor).st_size
            torn = end > 0 and _last_byte(descriptor, end) != b"\n"
            data = (b"\n" if torn else b"") + line + b"\n"
            try:
                written = os.write(descriptor, data)
                if written != len(data):
                    raise OSError(f"{written} of {len(data)} bytes could be written")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
    finally:
        os.close(descriptor)


def _last_byte(descriptor: int, end: int) -> bytes:
    os.lseek(descriptor, end - 1, os.SEEK_SET)
    return os.read(descriptor, 1)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Alone with the file; the system unlocks it when the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows; lines are still whole, as each is one write
        yield
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
