"""Base classes of reports and their parts: strict, and with JSON for numbers that JSON lacks."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer


def _plain(value: float) -> float | str:
    """A number as JSON can hold it: ``inf`` and ``nan`` as text."""
    return value if math.isfinite(value) else str(value)


Real = Annotated[float, BeforeValidator(float), PlainSerializer(_plain, when_used="always")]
"""A float that may be infinite, which JSON has as text."""


class Document(BaseModel):
    """A whole report: no field besides those declared, and their version."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    schema_version: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values as JSON holds them; what is None is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Part(BaseModel):
    """Part of a report: immutable, no field besides those declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
