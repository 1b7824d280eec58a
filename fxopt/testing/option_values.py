"""The values of an option that its type names, each of which a pass must run with or refuse."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from fxopt.testing.number_range import NumberRange


def option_values(hint: Any, default: Any) -> list[Any]:
    """The default, and each value that the type names, each once.

    Those are the members of a Literal, both booleans, None of an optional, and for a number both ends of its range and one
    inside: an inclusive bound, or the number next to an exclusive one. For a tuple, the empty one, and one of each value of
    its items. A str names nothing: write ``Literal["l1", "l2"] | str`` where some values are known.
    """
    found: list[Any] = []
    for value in (default, *_named(hint)):
        if not any(value == other and type(value) is type(other) for other in found):
            found.append(value)
    return found


def _named(hint: Any, extras: tuple[Any, ...] = ()) -> Iterator[Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        yield from _named(args[0], (*extras, *args[1:]))
    elif origin is Literal:
        yield from args
    elif origin in (typing.Union, types.UnionType):
        for arg in args:
            yield from _named(arg, extras)
    elif origin is frozenset or (origin is tuple and args[1:] == (Ellipsis,)):
        yield origin()
        yield from (origin([item]) for item in _named(args[0]))
    elif hint is bool:
        yield from (False, True)
    elif hint is type(None):
        yield None
    elif hint in (int, float):
        numbers = NumberRange.of(hint, extras)
        yield from map(hint, (*numbers.ends(), numbers.inside()))
