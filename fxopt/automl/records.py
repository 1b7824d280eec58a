"""The record of a trial: the recipe, how far it climbed, its figures, and why it stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from fxopt.automl.space import Point

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Why = Literal["done", "limit", "behind", "time", "refused", "failed"]
"""``done``: all rungs; ``limit``: a limit that it cannot keep; ``behind``: not among the best of its rung; ``time``: what it has
to train takes longer than the search has; ``refused``: it cannot be built; ``failed``: a crash, a time-out or memory."""
KEY, PARENT = "record", "parent"
"""Attributes of a trial: its record, and the passes of the recipe that it is a neighbour of."""


class Record(BaseModel):
    """A trial. ``figures`` are those known by then; ``rungs`` those of each rung, by its name."""

    model_config = ConfigDict(extra="forbid")

    passes: tuple[str, ...]
    backend: str
    number: int = -1
    why: Why | None = None
    reason: str | None = None
    figures: dict[str, float] = {}
    rungs: dict[str, dict[str, float]] = {}
    spent: dict[str, float] = {}
    """Seconds of each rung, by its name."""
    epoch_seconds: float = 0.0
    """Seconds of an epoch in the last rung that trained."""
    preset: str | None = None
    runs_on: str | None = None
    """The backend with the options of its runtime that measured fastest."""
    kept: str | None = None
    held_out: float | None = None
    """Loss of the metric on the half of the validation split that no rung used."""
    seconds: float = 0.0

    @property
    def point(self) -> Point:
        """Passes and backend."""
        return Point(self.passes, self.backend)

    def anew(self) -> Record:
        """The recipe to be tried from the beginning, without what was found of it."""
        return Record(passes=self.passes, backend=self.backend, preset=self.preset)


def record_of(trial: FrozenTrial) -> Record | None:
    """The record of a trial of a study; None where it has none yet."""
    found: dict[str, Any] | None = trial.user_attrs.get(KEY)
    return None if found is None else Record(**{**found, "number": trial.number})
