"""Entries for blocks: functions that rewrite the program of a block, registered like a pass.

::

    @block_entry("unit", "mlp")
    def without_negatives(block: Program, samples: Samples | None, *, slope: float = 0.0) -> str | None:
        \"\"\"First line: shown by `fxopt blocks`.\"\"\"

The function edits the block in place, as a pass edits its program, or returns why it does not apply. A search tries the
values that ``Tune`` in the annotations of its options names.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fxopt import registry
from fxopt.errors import UnknownNameError
from fxopt.support.options import Tune, check_option, type_hints
from fxopt.support.spec import format_call, parse_call

if TYPE_CHECKING:
    import torch

    from fxopt.ir.program import Program

BlockKind = Literal["unit", "branch", "gate", "attention", "mlp", "norm"]
"""A contraction with its norm, bias and activation; a residual branch with its sum; a product of a value with a gate for its
channels computed from it; attention with its projections; two layers around an activation; a layer norm."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Samples:
    """Inputs and outputs of a block in the original program, float32 with the examples along the first dim."""

    read: torch.Tensor
    given: torch.Tensor


@dataclass(frozen=True)
class BlockEntry:
    """An entry of the library of blocks: ``function(block, samples, **options)`` for blocks of some ``kinds``."""

    name: str
    kinds: tuple[BlockKind, ...]
    function: Callable[..., str | None]

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.function.__doc__)
        object.__setattr__(self, "__module__", self.function.__module__)

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The keyword-only parameters of the function."""
        given = inspect.signature(self.function).parameters
        return {name: p for name, p in given.items() if p.kind is p.KEYWORD_ONLY}

    def __call__(self, **options: Any) -> BlockForm:
        """The entry with these options. Raises UnknownNameError and OptionError."""
        hints = type_hints(self.function)
        for name in options:
            if name not in self.options:
                raise UnknownNameError(f"option of {self.name}", name, list(self.options))
        checked = {n: check_option(f"{self.name}({n}=…)", hints[n], v) for n, v in options.items()}
        return BlockForm(self, tuple(checked.items()))

    def forms(self) -> Iterator[BlockForm]:
        """Every form that a search tries."""
        hints = type_hints(self.function)
        varied = {name: _choices(hints[name]) for name in self.options}
        varied = {name: values for name, values in varied.items() if values}
        for values in itertools.product(*varied.values()):
            yield self(**dict(zip(varied, values, strict=True)))


@dataclass(frozen=True)
class BlockForm:
    """An entry with its options; ``str`` is the text that :func:`parse_form` reads."""

    entry: BlockEntry
    options: tuple[tuple[str, Any], ...] = ()

    def build(self, block: Program, samples: Samples | None) -> str | None:
        """Rewrite the program of a block in place; the reason where it does not apply."""
        return self.entry.function(block, samples, **dict(self.options))

    def __str__(self) -> str:
        return format_call(self.entry.name, dict(self.options))


def block_entry(*kinds: BlockKind) -> Callable[[_Function], BlockEntry]:
    """Turn a function ``f(block, samples, *, option: type = default, …) -> str | None`` into an entry.

    Raises TypeError for an option without a default.
    """
    return functools.partial(_make, kinds)


def _make(kinds: tuple[BlockKind, ...], function: Callable[..., str | None]) -> BlockEntry:
    made = BlockEntry(function.__name__, kinds, function)
    for name, parameter in made.options.items():
        if parameter.default is parameter.empty:
            raise TypeError(f"{made.name}: the option {name!r} needs a default")
    return made


def parse_form(text: str, what: str) -> BlockForm:
    """Read ``separable(terms=2)``. Raises UsageError, UnknownNameError and OptionError."""
    name, options = parse_call(text, what)
    entry: BlockEntry = registry.get("block", name)
    return entry(**options)


def _choices(hint: Any) -> tuple[Any, ...]:
    tunes = (extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Tune))
    return next((tune.choices for tune in tunes), ())


__all__ = ["BlockEntry", "BlockForm", "BlockKind", "Samples", "block_entry", "parse_form"]
