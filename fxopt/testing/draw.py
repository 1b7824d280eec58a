"""Values drawn from the type of an option, the ends of ranges often."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterator
from random import Random
from typing import Any, Literal

_WORDS = ("", "conv1", "layer.0.weight", "it's", 'a "quoted" one', "naïve", "back\\slash", "new\nline", "a, b(c=1)")


def draw(hint: Any, default: Any, random: Random) -> Any:
    """A value that the type allows; ``default`` for a type that is not known here (which strategies are made of).

    Knows Literal, bool, int, float, str, None, unions, tuples, frozensets of str, and ranges in ``Annotated``.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _within(args[0], list(_limits(args[1:])), default, random)
    if origin is Literal:
        return random.choice(args)
    if origin in (typing.Union, types.UnionType):
        return draw(random.choice(args), default, random)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(draw(args[0], "", random) for _ in range(random.randrange(4)))
        return tuple(draw(arg, d, random) for arg, d in zip(args, default or [None] * len(args), strict=False))
    if hint is bool:
        return random.random() < 0.5
    if hint is int or hint is float:
        return _within(hint, [], default, random)
    if hint is str:
        return random.choice(_WORDS)
    return None if hint is type(None) else default


def _limits(extras: tuple[Any, ...]) -> Iterator[tuple[str, float]]:
    for extra in extras:
        parts = extra.metadata if hasattr(extra, "metadata") else extra if hasattr(extra, "__iter__") else (extra,)
        for part in parts:
            for sign in ("gt", "ge", "lt", "le", "multiple_of"):
                if (bound := getattr(part, sign, None)) is not None:
                    yield sign, bound


def _within(base: Any, limits: list[tuple[str, float]], default: Any, random: Random) -> Any:
    if base not in (int, float):
        return draw(base, default, random)
    bounds = dict(limits)
    step = bounds.get("multiple_of", 1)
    low = bounds.get("ge", bounds.get("gt", min(-100, bounds.get("le", bounds.get("lt", 0)) - 100)))
    high = bounds.get("le", bounds.get("lt", max(low, 0) + 100))
    if base is int:
        first = math.ceil(low / step) if "gt" not in bounds else math.floor(low / step) + 1
        last = math.floor(high / step) if "lt" not in bounds else math.ceil(high / step) - 1
        return int(random.choice([first, last, random.randint(first, last)]) * step)
    inside = random.uniform(low, high)
    ends = [bounds[sign] for sign in ("ge", "le") if sign in bounds]
    drawn = float(random.choice([*ends, inside, inside]))
    return drawn if drawn not in (bounds.get("gt"), bounds.get("lt")) else (low + high) / 2
