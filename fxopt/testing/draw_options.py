"""Random values of an option's type, often the ends of ranges."""

from __future__ import annotations

import math
import types
import typing
from random import Random
from typing import Any, Literal

from fxopt.testing.number_range import NumberRange

_WORDS = ("", "conv1", "layer.0.weight", "it's", 'a "quoted" one', "naïve", "back\\slash", "new\nline", "a, b(c=1)")


def draw(hint: Any, default: Any, random: Random) -> Any:
    """A random value of the type; ``default`` for an unknown type.

    Knows Literal, bool, int, float, str, None, unions, tuples, frozensets of str, and ranges in ``Annotated``.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _within(args[0], args[1:], default, random)
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
        return _within(hint, (), default, random)
    if hint is str:
        return random.choice(_WORDS)
    return None if hint is type(None) else default


def _within(base: Any, extras: tuple[Any, ...], default: Any, random: Random) -> Any:
    if base not in (int, float):
        return draw(base, default, random)
    numbers = NumberRange.of(base, extras)
    step = numbers.step or 1
    low = numbers.low if numbers.low is not None else min(-100, (numbers.high or 0) - 100 * step)
    high = numbers.high if numbers.high is not None else max(low, 0) + 100 * step
    if base is int:
        inside = random.randint(math.ceil(low / step), math.floor(high / step)) * step
        return int(random.choice([*(numbers.ends() or [low, high]), inside]))
    return float(random.choice([*numbers.ends(), random.uniform(low, high), random.uniform(low, high)]))
