"""A file of lines that are appended whole or not at all, by several processes at once, even if one is killed."""

from __future__ import annotations

import os
from pathlib import Path

from fxopt.support.file_lock import locked


def append_line(path: Path, line: bytes) -> None:
    """Append a line, whole or not at all, and on a line of its own even after a torn one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        with locked(descriptor):  # without locks, lines are still whole, as each is one write
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
