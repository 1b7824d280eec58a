"""What a backend contributes to a program that runs its models without Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Library:
    """A shared library: ``path`` in its wheel, where ``*`` stands for anything, and the ``name`` that loaders look for."""

    path: str
    name: str


@dataclass(frozen=True)
class Wheel:
    """A package with the runtime of a backend.

    ``headers`` are paths in it after the folder ``include``, which ends their first part; ``licenses`` are patterns of
    paths, as its libraries may only be distributed with them. ``exact``: a model runs only in the version that compiled it.
    """

    package: str
    libraries: tuple[Library, ...] = ()
    include: str = ""
    headers: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    exact: bool = True


@dataclass(frozen=True)
class Standalone:
    """A program for the models of a backend: its ``sources``, and the ``wheels`` with its libraries.

    The program reads ``options`` from ``interface.txt``, along with a model's inputs and outputs; values are one line.
    """

    sources: tuple[Path, ...]
    wheels: tuple[Wheel, ...]
    options: dict[str, str] = field(default_factory=dict)
