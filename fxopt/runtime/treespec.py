"""Nested inputs and outputs without torch: tuples, lists and dicts with numbered leaves, as JSON holds them.

An artifact runs where torch is not installed, so its manifest has the structure of inputs and outputs as
``["tuple", [0, ["dict", {"a": 1}]]]``, where 0 and 1 are leaf numbers.
``None`` is no leaf, unless ``is_leaf`` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fxopt.errors import UsageError

Spec = Any
"""A leaf number, None, or ``[kind, children]`` with kind ``tuple``, ``list`` or ``dict``."""


def describe(value: Any, is_leaf: Callable[[Any], bool]) -> tuple[list[Any], Spec]:
    """Split a nested value into leaves and structure. Raises TypeError at a container that is none of the three kinds."""
    leaves: list[Any] = []

    def walk(part: Any) -> Spec:
        if is_leaf(part):
            leaves.append(part)
            return len(leaves) - 1
        if part is None:
            return None
        if isinstance(part, dict):
            return ["dict", {str(key): walk(child) for key, child in part.items()}]
        if isinstance(part, (tuple, list)):
            return ["tuple" if isinstance(part, tuple) else "list", [walk(child) for child in part]]
        raise TypeError(f"{type(part).__name__} is neither a tensor, a number, a tuple, a list nor a dict")

    return leaves, walk(value)


def check(spec: Spec, count: int, where: str) -> None:
    """Raise ValueError unless ``spec`` is a structure with the leaves 0 to ``count`` - 1, each once or more."""
    leaves: set[int] = set()

    def walk(part: Any) -> None:
        if part is None:
            return
        if type(part) is int and 0 <= part < count:
            leaves.add(part)
            return
        kind, children = part if isinstance(part, list) and len(part) == 2 else (None, None)
        if kind == "dict" and isinstance(children, dict):
            children = list(children.values())
        if kind not in ("tuple", "list", "dict") or not isinstance(children, list):
            raise ValueError(f"{where}: {part!s:.80} is no structure of {count} values")
        for child in children:
            walk(child)

    walk(spec)
    if len(leaves) != count:
        raise ValueError(f"{where}: {len(leaves)} of {count} values have a place")


def assemble(spec: Spec, leaves: list[Any]) -> Any:
    """Put leaves back into their structure."""
    if spec is None or isinstance(spec, int):
        return None if spec is None else leaves[spec]
    kind, children = spec
    if kind == "dict":
        return {key: assemble(child, leaves) for key, child in children.items()}
    parts = [assemble(child, leaves) for child in children]
    return tuple(parts) if kind == "tuple" else parts


def flatten_as(spec: Spec, value: Any, where: str = "inputs") -> list[Any]:
    """Leaves of ``value`` in the order of their numbers in ``spec``. Raises UsageError where the structure differs."""
    leaves = dict(_numbered(spec, value, where))
    return [leaves[number] for number in sorted(leaves)]  # a caller may give keys in another order


def _numbered(spec: Spec, value: Any, where: str) -> Iterator[tuple[int, Any]]:
    if spec is None:
        if value is not None:
            raise UsageError(f"{where}: expected None, got {type(value).__name__}")
        return
    if isinstance(spec, int):
        yield spec, value
        return
    kind, children = spec
    if kind == "dict":
        if not isinstance(value, dict) or set(map(str, value)) != set(children):
            got = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
            raise UsageError(f"{where}: expected a dict with keys {sorted(children)}, got {got}")
        for key, part in value.items():
            yield from _numbered(children[str(key)], part, f"{where}[{str(key)!r}]")
        return
    if not isinstance(value, (tuple, list)) or len(value) != len(children):
        got = f"{len(value)}" if isinstance(value, (tuple, list)) else type(value).__name__
        raise UsageError(f"{where}: expected {len(children)} item(s) in a {kind}, got {got}")
    for i, (child, part) in enumerate(zip(children, value, strict=True)):
        yield from _numbered(child, part, f"{where}[{i}]")
