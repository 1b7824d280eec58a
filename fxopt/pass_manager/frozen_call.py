"""The arguments of a call as a hashable value: equal calls have equal ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import fx


def frozen_call(node: fx.Node, number: Callable[[fx.Node], Hashable]) -> tuple[Hashable, ...]:
    """The arguments by name, defaults filled in, and operands by number."""
    given: dict[str, Any] = dict(node.kwargs)
    if schema := getattr(node.target, "_schema", None):
        given |= dict(zip((a.name for a in schema.arguments), node.args, strict=False))
        given = {a.name: given.get(a.name, a.default_value) for a in schema.arguments}
    else:
        given |= {str(i): arg for i, arg in enumerate(node.args)}
    return tuple((name, _freeze(value, number)) for name, value in given.items())


def _freeze(value: Any, number: Callable[[fx.Node], Hashable]) -> Hashable:
    if isinstance(value, fx.Node):
        return ("value", number(value))
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(v, number) for v in value)
    if isinstance(value, dict):
        return tuple((k, _freeze(v, number)) for k, v in value.items())
    if isinstance(value, slice):
        return ("slice", *(_freeze(v, number) for v in (value.start, value.stop, value.step)))
    return (type(value).__name__, repr(value))  # 1, 1.0 and True are different, and so are 0.0 and -0.0
