"""Checks, and those that passes and backends share: name, documentation, value, text form."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from fxopt import registry
from fxopt.errors import OptionError, UnknownNameError
from fxopt.support.options import type_hints, type_name
from fxopt.testing.draw_options import draw

DRAWS = 25
"""How many option values a pass or a backend is tried with."""


class ContractError(AssertionError):
    """A pass or backend breaks the contract; the message says what, expected and got, and the way out."""


@dataclass(frozen=True)
class Check:
    """A named check. ``run()`` raises where the contract is broken, and may return a remark."""

    name: str
    run: Callable[[], str | None]


@dataclass(frozen=True)
class CheckResult:
    """The result of a check. ``detail`` is the failure's message, or a remark; ``seconds`` is wall time."""

    name: str
    passed: bool
    detail: str
    seconds: float


def require(holds: bool, message: str) -> None:
    """Raise ContractError with a message for the author unless a condition holds."""
    if not holds:
        raise ContractError(message)


def check_name(cls: Any) -> None:
    """Check the name: snake_case, and its own in the registry."""
    kind = kind_of(cls)
    snake = re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", cls.name)
    require(bool(snake), f"name must be snake_case, got {cls.name!r}; rename it as verb_object, like fold_batch_norm")
    if kind == "pass":
        require(
            cls.name == cls.__name__,
            f"a pass and its class have one name: name is {cls.name!r}, the class is {cls.__name__!r}",
        )
    if cls.name in registry.names(kind):
        found = registry.get(kind, cls.name)
        require(
            found is cls,
            f"the name {cls.name!r} is registered for {found.__module__}.{found.__qualname__}, not for "
            f"{cls.__module__}.{cls.__qualname__}; rename yours, or check the one that is registered",
        )


def check_docstring(cls: Any) -> None:
    """Check that the first line, which `fxopt passes` shows, exists and is a sentence."""
    inherited = any(base.__doc__ is cls.__doc__ for base in cls.__mro__[1:])
    first = "" if inherited else (inspect.getdoc(cls) or "").split("\n")[0]
    generated = first.startswith(f"{cls.__name__}(")
    require(bool(first) and not generated, "it has no docstring; its first line is what `fxopt passes` shows")
    require(
        first[0].isupper() and first.endswith(".") and len(first) <= 100,
        f"the first line of the docstring must be a sentence of at most 100 characters, with a capital and a full stop; "
        f"got {len(first)} characters: {first!r}",
    )


def check_value(cls: Any) -> None:
    """Check that a pass or backend is a value: constructible without options, frozen, hashable, equal to an equal one."""
    try:
        one, other = cls(), cls()
    except TypeError as error:
        raise ContractError(f"every option needs a default: {cls.name}() fails with: {error}") from None
    parameters: Any = vars(cls).get("__dataclass_params__")
    require(
        bool(parameters and parameters.frozen),
        "it must be a frozen dataclass; put @dataclass(frozen=True) above the class",
    )
    require(one == other, f"two of the same options must be equal: {cls.name}() != {cls.name}()")
    try:
        same_hash = hash(one) == hash(other)
    except TypeError as error:
        raise ContractError(f"it must be hashable ({error}); use tuples and frozensets for options") from None
    require(same_hash, "equal values must have equal hashes; do not write __hash__ yourself")


def check_round_trip(cls: Any, parse: Callable[[str], Any]) -> str:
    """Check that the text form round-trips, for the defaults and for options drawn from their types."""
    random = Random(0)
    hints = type_hints(cls)
    tried = 0
    with registered(cls):
        for value in [cls(), *(_drawn(cls, hints, random) for _ in range(DRAWS))]:
            if value is None:
                continue
            tried += 1
            text = str(value)
            back = parse(text)
            require(
                back == value and hash(back) == hash(value) and str(back) == text,
                f"the text form does not round-trip: {text!r} reads back as {back!s:.200}; "
                "options must be literals: numbers, texts, None, tuples of these",
            )
    return f"{tried} values"


def _drawn(cls: Any, hints: dict[str, Any], random: Random) -> Any:
    """A value with drawn options; None where its own check across options refuses the combination."""
    options = {f.name: draw(hints[f.name], f.default, random) for f in dataclasses.fields(cls)}
    try:
        return cls(**options)
    except OptionError as error:
        clash = len(options) > 1 and not any(f"({name}=" in str(error) for name in options)
        require(clash, f"its own type allows {options!r}, but making it fails: {error}; narrow the option's type")
        return None


def check_wrong_options(cls: Any, parse: Callable[[str], Any]) -> str:
    """Check that options of a wrong type and unknown ones are refused with an error that names the option."""
    hints = type_hints(cls)
    with registered(cls):
        try:
            parse(f"{cls.name}(no_such_option_=1)")
        except UnknownNameError as error:
            require("no_such_option_" in str(error), f"the error must name the unknown option, got: {error}")
        else:
            raise ContractError("an unknown option must be refused with UnknownNameError; inherit the constructor")
        for field in dataclasses.fields(cls):
            try:
                cls(**{field.name: 1j})  # a complex number is of no use to any option
            except OptionError as error:
                require(field.name in str(error), f"the error must name the option {field.name!r}, got: {error}")
                continue
            raise ContractError(
                f"{cls.name}({field.name}=1j) was accepted; its type {type_name(hints[field.name])} checks nothing"
            )
    return f"{len(dataclasses.fields(cls))} options"


def kind_of(cls: Any) -> Literal["pass", "backend"]:
    """Which registry a class belongs to."""
    from fxopt.backend import Backend

    return "backend" if issubclass(cls, Backend) else "pass"


@contextlib.contextmanager
def registered(cls: Any) -> Iterator[None]:
    """Have the class in the registry under its name inside, so that text can name it before it is packaged."""
    with registry.overridden(kind_of(cls), cls.name, cls):
        yield
