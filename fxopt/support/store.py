"""A content-addressed store of results: entries under a key, least recently used ones evicted, damaged ones never used.

An entry is one file: a line that names the format, the sha256 of all the rest, a JSON object and bytes. It is written
to a temporary file and renamed, so a reader finds a whole entry or none. Several processes may share a store.
A store that cannot be written to (the disk is full, the folder is another user's) is read and no longer written; a
CacheWarning says so once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FORMAT = b"fxopt cache 1\n"
_DIGEST, _LENGTH = 32, 8
_ABANDONED = 3600.0
"""Seconds after which a file that was being written belongs to a process that was killed."""
_FULL = 0.9
"""Share of the limit that is left when a store has been trimmed, so that not every entry trims it."""
_RESCAN = 0.02
"""Share of the limit that is written before the folder is scanned again: others write into it too."""


class CacheWarning(UserWarning):
    """The cache cannot be used; everything is recomputed, and nothing else is lost."""


@dataclass(frozen=True)
class Entry:
    """The entry of a key."""

    values: dict[str, Any]
    blob: bytes


@dataclass(frozen=True)
class Usage:
    """Entries of one kind, their bytes, and how often one was found since the store was last cleared."""

    entries: int = 0
    bytes: int = 0
    hits: int = 0


class Store:
    """Entries in the folder ``root``, at most ``limit`` bytes of them. ``problem`` says why it is not written to, if so."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self.limit = root, limit
        self.problem: str | None = None
        self._unseen: int | None = None

    def get(self, kind: str, key: str, *, count: bool = True) -> Entry | None:
        """The entry of a key; None if there is none, or a damaged one, which is removed. ``count`` it as a hit."""
        path = self._path(kind, key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up(error)
            return None
        entry = _unpacked(kind, key, data)
        if entry is None:
            self.drop(kind, key)
        elif count:
            self._note_hit(kind, path)
        return entry

    def put(self, kind: str, key: str, values: dict[str, Any], blob: bytes = b"") -> None:
        """Store under a key, replacing an old entry. An entry of more than a quarter of the limit is not stored."""
        data = _packed(kind, key, values, blob)
        if self.problem or len(data) > self.limit // 4:
            return
        path = self._path(kind, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, data)
            self._make_room(len(data))
        except OSError as error:
            self._give_up(error)

    def drop(self, kind: str, key: str) -> None:
        """Remove an entry."""
        with contextlib.suppress(OSError):
            self._path(kind, key).unlink()

    def usage(self) -> dict[str, Usage]:
        """Usage by kind."""
        found: dict[str, Usage] = {}
        for kind in sorted(path.name for path in _folders(self.root)):
            sizes = [size for path, _, size in _files(self.root / kind) if path.suffix != ".tmp"]
            hits = 0
            with contextlib.suppress(OSError):
                hits = self._hits(kind).stat().st_size
            found[kind] = Usage(len(sizes), sum(sizes), hits)
        return found

    def clear(self) -> int:
        """Remove every entry, and return how many bytes they were. Raises OSError."""
        before = sum(usage.bytes for usage in self.usage().values())
        if self.root.is_dir():
            shutil.rmtree(self.root)
        self._unseen = None
        return before

    def _path(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / key

    def _hits(self, kind: str) -> Path:
        return self.root / kind / "hits"

    def _note_hit(self, kind: str, path: Path) -> None:
        """Append a byte for each hit, which is atomic."""
        with contextlib.suppress(OSError):
            os.utime(path)
            with self._hits(kind).open("ab") as file:
                file.write(b".")

    def _make_room(self, written: int) -> None:
        """Drop the entries that were not used for the longest, where there are too many."""
        if self._unseen is not None and self._unseen + written < _RESCAN * self.limit:
            self._unseen += written
            return
        self._unseen = 0
        files = sorted(_files(self.root), key=lambda file: file[1])
        total = sum(size for _, _, size in files)
        wanted = _FULL * self.limit if total > self.limit else total
        for path, used, size in files:
            writing = path.suffix == ".tmp"
            if (writing and used < time.time() - _ABANDONED) or (not writing and total > wanted):
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= size

    def _give_up(self, error: OSError) -> None:
        if self.problem is None:
            self.problem = f"{self.root}: {error.strerror or error}"
            warnings.warn(CacheWarning(f"going on without a cache: {self.problem}"), stacklevel=4)


def _write(path: Path, data: bytes) -> None:
    """Write to a temporary file and rename it; nothing half-written stays, whatever happens."""
    handle, beside = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def _packed(kind: str, key: str, values: dict[str, Any], blob: bytes) -> bytes:
    text = json.dumps(values).encode()
    rest = len(text).to_bytes(_LENGTH, "big") + text + blob
    return _FORMAT + _digest(kind, key, rest) + rest


def _unpacked(kind: str, key: str, data: bytes) -> Entry | None:
    start = len(_FORMAT) + _DIGEST
    digest, rest = data[len(_FORMAT) : start], data[start:]
    if not data.startswith(_FORMAT) or digest != _digest(kind, key, rest):
        return None
    end = _LENGTH + int.from_bytes(rest[:_LENGTH], "big")
    return Entry(json.loads(rest[_LENGTH:end]), rest[end:])


def _digest(kind: str, key: str, rest: bytes) -> bytes:
    """Digest that includes the key: an entry under another name is not used."""
    return hashlib.sha256(f"{kind}/{key}\n".encode() + rest).digest()


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir()]
    except OSError:
        return []


def _files(root: Path) -> Iterator[tuple[Path, float, int]]:
    """Entries below a folder: path, time of the last use, bytes; one that is removed meanwhile is skipped."""
    for folder, _, names in os.walk(root):
        for name in names:
            if name != "hits":
                path = Path(folder) / name
                with contextlib.suppress(OSError):
                    facts = path.stat()
                    yield path, facts.st_mtime, facts.st_size
