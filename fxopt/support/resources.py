"""Errors of a full disk or memory. Native libraries seldom report these clearly."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fxopt.errors import ResourceError, text_of

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LITTLE = 1 << 18
"""Free bytes of a disk below which an error is attributed to a failed write."""
_ROOM = "make room there, or give another disk: --out for artifacts, TMPDIR for scratch, XDG_CACHE_HOME for caches"
_MEMORY = ("bad_alloc", "can't allocate memory", "Cannot allocate memory", "Failed to allocate memory")
"""How torch and C++ runtimes report, by message alone, that they ran out of memory."""


def resource_error(error: BaseException, place: Path | None = None, needed: int = _LITTLE) -> ResourceError | None:
    """The ResourceError for an ``error`` that a full disk or memory caused; None for another.

    ``place`` is where something of ``needed`` bytes was written: if its disk has less free space, that is the cause whatever
    the error says. Otherwise an error that names no file is left to a caller that knows the place.
    """
    full = place is not None and _free(place) < needed
    for cause in _chain(error):
        if isinstance(cause, ResourceError):
            return None if cause is error else cause
        if isinstance(cause, OSError) and cause.errno in _FULL:
            if isinstance(cause.filename, (str, bytes)):
                return _full_disk(Path(os.fsdecode(cause.filename)), cause.strerror)
            if place is None or not full:
                return None if place else ResourceError(f"cannot write: {cause.strerror}", way_out=_ROOM)
        if isinstance(cause, MemoryError) or any(word in text_of(cause) for word in _MEMORY):
            return ResourceError(
                f"memory is at its end: {text_of(cause) or 'no more could be allocated'}{_held()}",
                way_out="end other programs, take a machine with more, or a smaller model or batch; weights that are mapped from "
                "a file (safetensors, torch.load(mmap=True)) take none before they are changed",
            )
    return _full_disk(place, "no room is left") if place is not None and full else None


def _held() -> str:
    """What this process holds, and the machine has, as Linux tells it."""
    own, all_of_it = (_kilobytes(Path(path)) for path in ("/proc/self/status", "/proc/meminfo"))
    if "VmHWM" not in own or "MemTotal" not in all_of_it:
        return ""
    return (
        f"; this process held {1024 * own['VmHWM']:,} bytes at most, and {1024 * own['VmRSS']:,} now, on a machine that has "
        f"{1024 * all_of_it['MemTotal']:,}"
    )


def _kilobytes(path: Path) -> dict[str, int]:
    """The lines ``Name:  123 kB`` of a file; none where there is no such file."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}


def _full_disk(written: Path, why: str | None) -> ResourceError:
    disk = mount_of(written)
    return ResourceError(
        f"cannot write to {written}: {why or 'it is full'}; the disk at {disk} has {_free(disk):,} bytes left",
        way_out=_ROOM,
    )


def mount_of(path: Path) -> Path:
    """The mount point of a path."""
    path = Path(os.path.abspath(path))
    while not os.path.ismount(path) and path != path.parent:
        path = path.parent
    return path


def _free(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return _LITTLE
    return usage.free if usage.total else _LITTLE  # of /proc, which is no disk


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
