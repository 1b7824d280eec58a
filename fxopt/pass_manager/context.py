"""The environment of a pass: what it may ask about beside the program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fxopt.backend import Backend
    from fxopt.ir.program import Program
    from fxopt.target import Target
    from fxopt.workload import Workload


@dataclass
class Context:
    """What a pass may ask about beside the graph: set by the pipeline, None where nothing was given."""

    workload: Workload | None = None
    target: Target | None = None
    backend: Backend | None = None
    original: Program | None = None
    """The program as it was when the pipeline began."""
    kept: Mapping[str, Mapping[int, torch.Tensor]] = field(default_factory=dict)
    """By the name of a weight and dim, which of its indices are left of those it had then, or when it was added."""
