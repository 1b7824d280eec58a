"""The environment of a pass: what it may use besides the program."""

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
    """What a pass may use besides the program, as given to the pipeline; None for what was not given."""

    workload: Workload | None = None
    target: Target | None = None
    backend: Backend | None = None
    original: Program | None = None
    """The program that the pipeline began with; not to be changed."""
    device: str = "cpu"
    """Where a pass runs graphs on data, as torch spells it: see :mod:`fxopt.ir.placement`. Programs come and go on the CPU."""
