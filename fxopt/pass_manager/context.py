"""The environment of a pass: what it may ask about beside the program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fxopt.backend import Backend
    from fxopt.ir.program import Program
    from fxopt.target import Target
    from fxopt.workload import Workload


@dataclass(frozen=True)
class Context:
    """What a pass may ask about beside the program, as the pipeline was given it; None for what it was not given."""

    workload: Workload | None = None
    target: Target | None = None
    backend: Backend | None = None
    original: Program | None = None
    """The program as it was when the pipeline began; not to be changed."""
