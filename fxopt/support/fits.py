"""Whether a value fits a type as it is, told for the common cases without pydantic, which takes longer to import than a
command takes that lists something.
"""

from __future__ import annotations

import types
import typing
from typing import Any, Literal

from annotated_types import Ge, Gt, Interval, Le, Lt


def fits(hint: Any, value: Any) -> bool:
    """True where the value surely fits and needs no conversion; False says nothing: pydantic decides, and gives the reason."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return fits(parts[0], value) and all(_within(extra, value) for extra in hint.__metadata__)
    if origin in (typing.Union, types.UnionType):
        return any(fits(part, value) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is list or (origin is tuple and parts[1:] == (...,)):
        return type(value) is origin and all(fits(parts[0], item) for item in value)
    return hint in (bool, int, float, str, type(None)) and type(value) is hint


def _within(extra: Any, value: Any) -> bool:
    """Whether a value keeps a bound; False for any other annotation, of which only pydantic knows whether it is a constraint."""
    if isinstance(extra, Interval):
        return all(_within(bound, value) for bound in extra)
    if isinstance(extra, Gt):
        return bool(value > extra.gt)
    if isinstance(extra, Ge):
        return bool(value >= extra.ge)
    if isinstance(extra, Lt):
        return bool(value < extra.lt)
    return isinstance(extra, Le) and bool(value <= extra.le)
