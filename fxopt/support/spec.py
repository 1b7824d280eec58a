"""The one text form of passes, backends and models: ``name`` or ``name(option=literal, …)``, a list joined by commas.

Text is parsed, never executed: anything that is not a call of literals is refused.
"""

from __future__ import annotations

import ast
from typing import Any

from fxopt.errors import UsageError

Call = tuple[str, dict[str, Any]]
"""A name and its options."""


def parse_calls(text: str, what: str = "pipeline") -> list[Call]:
    """Parse ``a, b(x=1)`` into ``[("a", {}), ("b", {"x": 1})]``. Raises UsageError that points at the place."""
    if not text.strip():
        return []
    try:
        body = ast.parse(f"_({text}\n)", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        column = max((getattr(error, "offset", None) or 3) - 3, 0)
        raise UsageError(
            f"{what} cannot be read: {getattr(error, 'msg', error)}\n  {text}\n  {' ' * column}^"
        ) from None
    if not isinstance(body, ast.Call) or not isinstance(body.func, ast.Name) or body.keywords:
        raise _refuse(text, body, what)
    return [_call(node, text, what) for node in body.args]


def parse_call(text: str, what: str) -> Call:
    """Parse one ``name(option=literal)``; the name may hold any of ``. : / -``, as in ``torchvision:resnet18(size=64)``."""
    name, paren, rest = text.strip().partition("(")
    if not name or any(c.isspace() for c in name):
        raise UsageError(f"{what} cannot be read: {text!r} is not a name, or name(option=value)")
    if not paren:
        return name, {}
    _, options = parse_calls(f"_({rest}", what)[0]
    return name, options


def format_call(name: str, options: dict[str, Any]) -> str:
    """Text of a name with options, the inverse of :func:`parse_call`."""
    inside = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"{name}({inside})" if inside else name


def _call(node: ast.expr, text: str, what: str) -> Call:
    if isinstance(node, ast.Name):
        return node.id, {}
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise _refuse(text, node, what)
    if node.args:
        raise UsageError(f"{what}: write options by name, {node.func.id}(option=value)\n  {text}")
    options: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise _refuse(text, keyword.value, what)
        if keyword.arg in options:
            raise UsageError(f"{what}: {node.func.id} has the option {keyword.arg!r} twice\n  {text}")
        try:
            options[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise _refuse(text, keyword.value, what) from None
    return node.func.id, options


def _refuse(text: str, node: ast.expr, what: str) -> UsageError:
    return UsageError(
        f"{what}: {_text_of(node)!r} is not a name or a call of literals, such as quantize(scheme='int8')\n"
        f"  {text}\n  nothing was executed"
    )


def _text_of(node: ast.expr) -> str:
    try:
        text = ast.unparse(node)
        return text[1:] if text.startswith("_(") else text  # without the name that reading put before a list of calls
    except RecursionError:
        return "a deeply nested expression"
