"""Temporary folders: removed when the work is done, or by the next process if theirs was killed.

A folder is locked as long as its process lives, so that others can tell: process ids are no help across containers that
share a disk. A failure is diagnosed before the folder is removed, as the disk is no longer full afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fxopt.support.file_lock import HAS_LOCKS, locked
from fxopt.support.resources import resource_error

_NAME = "fxopt-scratch-"
_OURS = re.compile(rf"\.?{_NAME}[a-z0-9_]{{8}}")
_AGE = 1.0
"""Seconds before an unlocked folder is taken for litter: it is created first, and then locked."""


@contextlib.contextmanager
def scratch_folder(beside: Path | None = None) -> Iterator[Path]:
    """A new folder, in the system's folder for temporary files, or hidden in ``beside``, so that files can be moved there.

    Raises OSError where it cannot be created, and ResourceError where a full disk or memory causes a failure inside.
    """
    place = Path(tempfile.gettempdir()) if beside is None else beside
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=_NAME if beside is None else f".{_NAME}", dir=place))
    try:
        with _locked(folder):
            try:
                yield folder
            except Exception as error:
                if told := resource_error(error, place):
                    raise told from error
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file atomically: a reader finds the old one or the new one. Raises OSError, and ResourceError."""
    with scratch_folder(path.parent) as folder:
        beside = folder / path.name
        beside.write_bytes(data)
        os.replace(beside, path)


def _sweep(place: Path) -> None:
    """Remove folders of killed processes."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if _OURS.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False) and _is_litter(entry):
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_litter(entry: os.DirEntry[str]) -> bool:
    try:
        if time.time() - entry.stat(follow_symlinks=False).st_mtime < _AGE:
            return False
        with _locked(Path(entry.path), wait=False) as held:
            return held
    except OSError:
        return False


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock a folder as long as this process lives; yield whether that succeeded. Without locks nothing is swept."""
    descriptor = os.open(folder, os.O_RDONLY) if HAS_LOCKS else None
    if descriptor is None:
        yield False
        return
    try:
        with locked(descriptor, wait=wait) as held:
            yield held
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder while names in it change: one process at a time."""
    with _locked(folder):
        yield
