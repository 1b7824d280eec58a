"""Hidden inputs of code, recorded as they are read: files, the user's modules, measurements.

A result may be taken from a cache only if everything that it depends on is known. Reads through fxopt are recorded here;
code that reads a file or measures by other means calls the same functions.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Observed:
    """Files that were read, modules that were imported by name, and why the result may differ next time."""

    files: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    volatile: set[str] = field(default_factory=set)


_WATCHING: list[Observed] = []


@contextlib.contextmanager
def observing() -> Iterator[Observed]:
    """Collect what is recorded inside, also by threads that are started there."""
    seen = Observed()
    _WATCHING.append(seen)
    try:
        yield seen
    finally:
        _WATCHING[:] = [other for other in _WATCHING if other is not seen]


def reads_file(path: str | Path) -> None:
    """Record that the present result depends on the content of a file."""
    for seen in _WATCHING:
        seen.files.add(str(Path(path).absolute()))


def uses_module(name: str) -> None:
    """Record that the present result depends on the code of a module that no import statement names."""
    for seen in _WATCHING:
        seen.modules.add(name)


def is_volatile(why: str) -> None:
    """Record that the present result may differ next time, as one that was measured."""
    for seen in _WATCHING:
        seen.volatile.add(why)


def file_digest(path: str | Path) -> str:
    """sha256 of a file's content; ``absent`` for one that cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "absent"
