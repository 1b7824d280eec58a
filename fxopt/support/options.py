"""Options checked by their types, the same for passes, backends, workloads and recipes."""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from annotated_doc import Doc

from fxopt.errors import OptionError, UnknownNameError
from fxopt.support.fits import fits


@dataclass(frozen=True, init=False)
class With:
    """Annotation of an option with other options that it depends on: ``Annotated[int, Ge(1), With(by="taylor")] = 64``.

    The contract tries the values of the option alone, and with these.
    """

    options: tuple[tuple[str, Any], ...]

    def __init__(self, **options: Any) -> None:
        object.__setattr__(self, "options", tuple(options.items()))


@dataclass(frozen=True)
class Tune:
    """Annotation of an option with the values that a search tries: ``Annotated[float, Gt(0), Tune(0.15, 1.0, log=True)]``.

    Either an interval of numbers, both ends included, on a logarithmic scale with ``log``; or ``choices``. ``fidelity`` marks
    an amount of training, such as epochs, of which a search gives most candidates less. A pass or backend with such
    annotations is searched over these options alone; without any, over those whose types have bounds or choices.
    Raises ValueError for an empty interval.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    fidelity: bool = False

    def __post_init__(self) -> None:
        if (self.low is not None and self.high is not None) == bool(self.choices):
            raise ValueError(f"Tune takes an interval, Tune(low, high), or choices=(…), got {self}")
        if self.low is not None and self.high is not None and (self.low >= self.high or (self.log and self.low <= 0)):
            raise ValueError(f"Tune: the interval is empty, or not positive on a logarithmic scale: {self}")


@functools.cache
def type_hints(cls: Any) -> dict[str, Any]:
    """Types of a class's fields, ranges in ``Annotated`` kept, what ``Doc`` says left out: it is for people."""
    return {name: _undocumented(hint) for name, hint in typing.get_type_hints(cls, include_extras=True).items()}


def _undocumented(hint: Any) -> Any:
    if typing.get_origin(hint) is typing.Annotated:
        base, *extras = typing.get_args(hint)
        kept = tuple(extra for extra in extras if not isinstance(extra, Doc))
        return typing.Annotated[(_undocumented(base), *kept)] if kept else _undocumented(base)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, map(_undocumented, typing.get_args(hint)))
    return hint


@functools.cache
def _adapter(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def check_option(where: str, hint: Any, value: Any) -> Any:
    """Check one value against its type, ranges in ``Annotated`` included; a list becomes a tuple where the type is one.

    Raises OptionError that names the option, what it takes and what it got.
    """
    if isinstance(value, list) and typing.get_origin(hint) is tuple:
        value = tuple(value)
    if fits(hint, value):
        return value
    from pydantic import ValidationError

    try:
        return _adapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        reasons = "; ".join(dict.fromkeys(detail["msg"] for detail in error.errors()))
        raise OptionError(f"{where}: takes {type_name(hint)}, got {value!r}\n  {reasons}") from None


def type_name(hint: Any) -> str:
    """A type as a user would write it: ``float in (0, 1]``, ``'a' or 'b'``."""
    if typing.get_origin(hint) is typing.Annotated:
        base, *extras = typing.get_args(hint)
        return " ".join([type_name(base), *(f"{_SIGNS[which]} {bound}" for which, bound in bounds(extras))])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(map(type_name, typing.get_args(hint)))
    if typing.get_origin(hint) is Literal:
        return " or ".join(repr(a) for a in typing.get_args(hint))
    if isinstance(hint, type) and not typing.get_args(hint):
        return "None" if hint is type(None) else hint.__name__
    return str(hint).replace("typing.", "").replace("collections.abc.", "")


def documentation(hint: Any) -> str:
    """What ``Annotated[…, Doc("…")]`` says of an option, also where it is part of a union; empty where nothing does."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Doc):
            return extra.documentation
    return next((said for part in typing.get_args(hint) if (said := documentation(part))), "")


_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "multiple of"}


def bounds(extras: Iterable[Any]) -> Iterator[tuple[str, float]]:
    """The bounds of a number in its annotations, by the names of annotated_types: gt, ge, lt, le, multiple_of."""
    for extra in extras:
        parts = extra.metadata if hasattr(extra, "metadata") else extra if hasattr(extra, "__iter__") else (extra,)
        for part in parts:
            for which in _SIGNS:
                if (bound := getattr(part, which, None)) is not None:
                    yield which, bound


def call_checked(function: Callable[..., Any], what: str, *args: Any, **options: Any) -> Any:
    """Call a function with options checked against its signature. Raises UnknownNameError and OptionError."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    named = {p.name: p for p in parameters[len(args) :] if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if len(args) > len(positional):
        raise OptionError(f"{what} takes no name after a colon, got {args[0]!r}")
    for name in options:
        if name not in named:
            raise UnknownNameError(f"option of {what}", name, named)
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in options:
            raise OptionError(f"{what} needs {name}: write {what}({name}=…), or {what}:{name.upper()} for the first")
    checked = {n: check_option(f"{what}({n}=…)", hints.get(n, Any), v) for n, v in options.items()}
    first = [check_option(f"{what}:{v}", hints.get(p.name, Any), v) for p, v in zip(positional, args, strict=False)]
    return function(*first, **checked)
