"""What a search found: the front, why each technique is or is not on it, what mattered, what a looser limit would buy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fxopt.driver.part import Part, Real
from fxopt.errors import UsageError

SCHEMA_VERSION = 1
FILE = "search.json"


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
    """A pass that was searched: in how many recipes, whether one of them is on the front, and if not what stands in the way."""

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


class SearchReport(BaseModel):
    """All of a search; ``search.json``. Sizes in bytes, latencies in ms, times in seconds."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    model: str
    target: dict[str, Any]
    backends: list[str]
    limits: list[str]
    objectives: list[str]
    seed: int
    original: dict[str, Real]
    metric: str | None = None
    original_metric: float | None = None
    notes: list[str] = []
    trials: int
    seconds: float
    interrupted: bool = False
    """Whether it was stopped: the front is not timed side by side then, and not held against test data."""
    front: list[Answer]
    nearest: Answer | None = None
    """Where no recipe keeps all limits: the one that comes nearest."""
    blocked_by: dict[str, Real] = {}
    """Of the nearest: by quantity, its value beyond the limit."""
    hypervolume: float
    techniques: list[Technique]
    rejected: list[Rejected]
    importance: dict[str, dict[str, float]] = {}
    """By objective, the share of its variance that each choice or option explains."""
    trade: Trade | None = None

    @classmethod
    def read(cls, folder: Path) -> SearchReport:
        """The report in the folder of a search. Raises UsageError where there is none, or one of another version."""
        try:
            values = json.loads((folder / FILE).read_bytes())
            if (version := values.get("schema_version")) == SCHEMA_VERSION:
                return cls.model_validate(values)
        except (OSError, ValueError, AttributeError) as error:
            raise UsageError(f"{folder} holds no search: {error}") from None
        raise UsageError(
            f"{folder / FILE} is of another version of fxopt",
            expected=f"schema_version {SCHEMA_VERSION}",
            got=f"schema_version {version}",
            way_out="search again in another folder, or read it with the fxopt that made it",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values as JSON holds them; what is None is left out."""
        return self.model_dump(mode="json", exclude_none=True)
