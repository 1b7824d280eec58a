"""The report of a search: the front, why each technique is or is not on it, what mattered, what a looser limit would buy."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from fxopt.driver.part import Part, Real
from fxopt.driver.stored_report import StoredReport


class Answer(Part):
    """A recipe on the front, with its figures: on validation data, timed side by side with the others, and once on test data."""

    passes: tuple[str, ...]
    backend: str
    figures: dict[str, Real]
    low_ms: float | None = None
    high_ms: float | None = None
    held_out_drop: float | None = None
    test_drop: float | None = None
    recipe: str
    """The recipe's file, in the folder of the search."""
    trial: int


class Technique(Part):
    """A pass that was searched: in how many recipes, whether one of them is on the front, and if not, why not."""

    name: str
    tried: int
    finished: int
    on_front: bool
    why_not: str | None = None


class Rejected(Part):
    """Trials that stopped for one reason: how many, and an example."""

    why: str
    count: int
    example: str | None = None


class Trade(Part):
    """What a looser limit of the metric would buy: the best value of each other objective with it, and without."""

    extra_drop: float
    best: dict[str, Real]
    instead_of: dict[str, Real]


class SearchReport(StoredReport):
    """All of a search; ``search.json``. Sizes in bytes, latencies in ms, times in seconds."""

    FILE = "search.json"
    WHAT = "search"
    WAY_OUT = "give the folder that `fxopt search --out` wrote"

    schema_version: int = 1
    model: str
    target: dict[str, Any]
    backends: list[str]
    limits: list[str]
    objectives: list[str]
    seed: int
    original: dict[str, Real]
    metric: str | None = None
    original_metric: float | None = None
    notes: list[str] = Field(default_factory=list)
    trials: int
    seconds: float
    interrupted: bool = False
    """Whether it was stopped: the front is then not timed side by side, and not evaluated on test data."""
    front: list[Answer]
    nearest: Answer | None = None
    """Where no recipe keeps all limits: the one that comes nearest."""
    blocked_by: dict[str, Real] = Field(default_factory=dict)
    """Of the nearest: by quantity, its value beyond the limit."""
    hypervolume: float
    techniques: list[Technique]
    rejected: list[Rejected]
    importance: dict[str, dict[str, float]] = Field(default_factory=dict)
    """By objective, the share of its variance that each choice or option explains."""
    trade: Trade | None = None
