"""The dimensions that a pass spans for a search: each option with the values to try, as its author or its type says."""

from __future__ import annotations

import dataclasses
import math
import random
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fxopt.errors import OptionError
from fxopt.pass_manager.pass_base import Pass
from fxopt.support.options import Tune, bounds, type_hints

NEVER = frozenset({"keep", "only", "keep_float", "seed", "samples", "images", "checkpoint", "teachers"})
"""Options that a search leaves alone unless annotated with ``Tune``: those that protect layers, or only cost time."""
_STEP = 1 / 4
DIGITS = 3
"""Significant digits of a number in a recipe."""


@dataclass(frozen=True)
class Dimension:
    """One option: ``choices``, or numbers from ``low`` to ``high``, which both belong to it."""

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    fidelity: bool = False

    def ends(self) -> tuple[Any, ...]:
        """The choices, or the two ends as they stand in a recipe."""
        return self.choices or (self.value(self.low), self.value(self.high))

    def value(self, number: float) -> Any:
        """A number of the interval as written in a recipe: whole, or rounded to a few digits and still inside."""
        if self.whole:
            return round(number)
        rounded = float(f"{number:.{DIGITS}g}")
        return rounded if self.low <= rounded <= self.high else number

    def at_most(self, number: float) -> Any:
        """The largest value that is not above a number, or the smallest of all."""
        if self.choices:
            return max((c for c in self.choices if c <= number), default=min(self.choices))
        unit = 1.0 if self.whole else 10.0 ** (math.floor(math.log10(number)) + 1 - DIGITS)
        return self.value(min(max(math.floor(number / unit + 1e-9) * unit, self.low), self.high))

    def step(self, value: Any, draw: random.Random) -> Any:
        """Another choice, or a number some way from ``value``: by a quarter of the interval, a normal deviate's times."""
        if self.choices:
            return draw.choice([choice for choice in self.choices if choice != value] or [value])
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        to = min(max(at + draw.gauss(0.0, _STEP) * (high - low), low), high)
        return min(max(math.exp(to) if self.log else to, self.low), self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of this dimension."""
        if self.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name} in {{{', '.join(map(repr, self.choices))}}}"
        low, high = self.ends()
        scale = (", logarithmic" if self.log else "") + (", an amount of training" if self.fidelity else "")
        return f"{self.name} from {low:g} to {high:g}{scale}"


def dimensions_of(cls: type[Pass]) -> tuple[Dimension, ...]:
    """The dimensions of a pass's options, in order of declaration.

    Those with :class:`fxopt.Tune` where any has it; else those whose type is a Literal, a bool or a float with two bounds.
    """
    hints = type_hints(cls)  # type: ignore[arg-type]
    names = [field.name for field in dataclasses.fields(cls)]
    tuned = {name: tune for name in names if (tune := _tune(hints[name])) is not None}
    if tuned:
        return tuple(_of_tune(name, tune, _whole(hints[name])) for name, tune in tuned.items())
    found = (_of_type(name, hints[name]) for name in names if name not in NEVER)
    return tuple(dimension for dimension in found if dimension is not None)


def asked(cls: type[Pass], name: str, wanted: Any) -> Dimension | Any:
    """A recipe's setting for an option: a dimension for a list, [low, high] of numbers or choices; any other value is fixed.

    Raises OptionError for an empty list, and for values that the pass does not take.
    """
    where = f"[search.{cls.name}] {name}"
    if not isinstance(wanted, list):
        _check(cls, where, name, wanted)
        return wanted
    if not wanted:
        raise OptionError(f"{where} is empty: give choices, or two numbers from which to which")
    hint = type_hints(cls)[name]  # type: ignore[arg-type]
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in wanted)
    own = next((d for d in dimensions_of(cls) if d.name == name), None)
    if len(wanted) == 2 and numbers and not (own and own.choices) and not _literals(hint):
        low, high = wanted
        if low >= high:
            raise OptionError(f"{where} = {wanted} is an empty interval; write [low, high]")
        fidelity, log = bool(own and own.fidelity), bool(own and own.log and low > 0)
        dimension = Dimension(name, (), low, high, log=log, whole=_whole(hint), fidelity=fidelity)
    else:
        dimension = Dimension(name, tuple(wanted))
    for value in dimension.ends():
        _check(cls, where, name, value)
    return dimension


def _check(cls: type[Pass], where: str, name: str, value: Any) -> None:
    try:
        cls(**{name: tuple(value) if isinstance(value, list) else value})
    except OptionError as error:
        raise OptionError(f"{where}: {error.what}") from None


def _tune(hint: Any) -> Tune | None:
    """The Tune of an annotation, anywhere in a union."""
    for part in _parts(hint):
        if typing.get_origin(part) is typing.Annotated:
            for extra in typing.get_args(part)[1:]:
                if isinstance(extra, Tune):
                    return extra
    return None


def _of_tune(name: str, tune: Tune, whole: bool) -> Dimension:
    if tune.low is None or tune.high is None:
        return Dimension(name, tune.choices)
    return Dimension(name, (), tune.low, tune.high, log=tune.log, whole=whole, fidelity=tune.fidelity)


def _of_type(name: str, hint: Any) -> Dimension | None:
    """The dimension of a type alone; None where it has no bounds."""
    if choices := _literals(hint):
        return Dimension(name, choices)
    found: dict[str, float] = {}
    for part in _parts(hint):
        if typing.get_origin(part) is typing.Annotated and typing.get_args(part)[0] is float:
            found = dict(bounds(typing.get_args(part)[1:]))
    low, high = found.get("ge", found.get("gt")), found.get("le", found.get("lt"))
    if low is None or high is None or not math.isfinite(high - low):
        return None
    inset = (high - low) / 1000  # an open end is approached, not reached
    return Dimension(name, (), low + inset * ("ge" not in found), high - inset * ("le" not in found))


def _literals(hint: Any) -> tuple[Any, ...]:
    """The values of a type of Literals and bool alone, besides None; empty for any other."""
    found: list[Any] = []
    for part in _parts(hint):
        if typing.get_origin(part) is Literal:
            found += typing.get_args(part)
        elif part is bool:
            found += (False, True)
        elif part is not type(None):
            return ()
    return tuple(found)


def _parts(hint: Any) -> Iterator[Any]:
    """The members of a union, itself if it is none."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for arg in typing.get_args(hint):
            yield from _parts(arg)
    else:
        yield hint


def _whole(hint: Any) -> bool:
    bases = [typing.get_args(p)[0] if typing.get_origin(p) is typing.Annotated else p for p in _parts(hint)]
    return int in bases and float not in bases
