"""What the parts of a report have in common: immutable, strict, and JSON for numbers that JSON lacks."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer


def _plain(value: float) -> float | str:
    """A number as JSON can hold it: ``inf`` and ``nan`` as text."""
    return value if math.isfinite(value) else str(value)


Real = Annotated[float, BeforeValidator(float), PlainSerializer(_plain, when_used="always")]
"""A float that may be infinite, which JSON has as text."""


class Part(BaseModel):
    """Part of a report: immutable, no field beside those declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")
