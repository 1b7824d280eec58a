"""Folders for a while: gone when the work is done, and with the next one where a process was killed in it.

A folder is locked as long as its process lives, so that the next one can tell: process ids say nothing across containers
that share a disk. A failure in such a folder is looked at before the folder goes, as a full disk is free again afterwards.
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
"""Seconds before a folder that is not locked is taken for litter: it is made first, and then locked."""


@contextlib.contextmanager
def scratch_folder(beside: Path | None = None) -> Iterator[Path]:
    """A new folder, in the one of the system for temporary files, or hidden in ``beside``, where it can be moved from.

    Raises OSError where it cannot be made, and ResourceError where a failure inside is that of a full disk or memory.
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
    """Write a file, or leave what is there: a reader never meets half of it. Raises OSError, and ResourceError."""
    with scratch_folder(path.parent) as folder:
        beside = folder / path.name
        beside.write_bytes(data)
        os.replace(beside, path)


def _sweep(place: Path) -> None:
    """Remove what killed processes left."""
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
    """Hold a folder as long as this process lives; whether it could be had. Without locks nothing is swept."""
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
    """One process after the other: for the moment in which names of a folder change."""
    with _locked(folder):
        yield
