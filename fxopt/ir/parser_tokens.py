"""Tokens of the text form: positions, names of ops, and arguments, which are literals and ``%references``."""

from __future__ import annotations

import ast
import importlib
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.errors import UnknownNameError, UsageError
from fxopt.ir.printer import DTYPES

_OPERATORS = (
    "getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "eq", "ne", "lt", "le", "gt", "ge",
)  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in _OPERATORS},
    **{name: getattr(torch, name) for name in ("sym_max", "sym_min", "sym_not", "sym_float", "sym_int", "sym_sum")},
}
"""Functions that a graph may call besides ops: selection of one of several results, and arithmetic on sizes."""

_QUOTED_OR_REFERENCE = re.compile(r"\"[^\"]*\"|'(?:[^'\\]|\\.)*'|%(\w+)")
_PREFIX = "_ref_"
_NUMBERS = {"inf": float("inf"), "nan": float("nan")}


@dataclass(frozen=True)
class Position:
    """One statement of a text and its position, for messages. Lines and columns count from 1."""

    whole: str
    text: str
    line: int
    start: int

    def where(self, at: int = 0) -> str:
        """Line, column and the line itself with a caret under the position."""
        lines = self.whole.splitlines() or [""]
        column = self.start + at
        return f"line {self.line}, column {column + 1}\n    {lines[self.line - 1]}\n    {' ' * column}^"

    def error(self, expected: str, at: int = 0) -> UsageError:
        """Return a UsageError that says what was expected here."""
        where, _, picture = self.where(at).partition("\n")
        return UsageError(f"program text, {where}: expected {expected}\n{picture}")


def scan_call(place: Position, start: int) -> tuple[int, int]:
    """Positions of the bracket that opens a call's arguments and of the one that closes them. Raises UsageError."""
    paren = place.text.find("(", start)
    if paren < 0 or not re.fullmatch(r"[A-Za-z_][\w.]*", place.text[start:paren].strip()):
        raise place.error("an op with arguments, such as aten.relu(%x)", start)
    depth, quote = 0, ""
    for i in range(paren, len(place.text)):
        character = place.text[i]
        if quote:
            quote = "" if character == quote and place.text[i - 1] != "\\" else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth == 0:
                return paren, i
    raise place.error("')' that closes the arguments", len(place.text))


def find_op(place: Position, start: int, end: int) -> Callable[..., Any]:
    """Op of a name like ``aten.mean.dim``. Raises UnknownNameError with the nearest names and the position."""
    name = place.text[start:end].strip()
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    namespace, _, rest = name.partition(".")
    if namespace == "quantized_decomposed":
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the ops
    operation, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, namespace), operation, None) if operation else None
    hint = "program text, " + place.where(start)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        raise UnknownNameError("op", name, _known_ops(namespace), hint)
    if (overload or "default") in packet.overloads():
        found: Callable[..., Any] = getattr(packet, overload or "default")
        return found
    known = [f"{namespace}.{operation}" + (f".{o}" if o != "default" else "") for o in packet.overloads()]
    if overload:
        raise UnknownNameError("overload", name, known, hint)
    raise place.error(f"the overload too: {' or '.join(sorted(known))}", start)


def _known_ops(namespace: str) -> list[str]:
    names = {name.replace("::", ".").partition(".") for name in torch._C._dispatch_get_all_op_names()}
    known = {f"{space}.{rest.partition('.')[0]}" for space, _, rest in names if space in (namespace, "aten")}
    return [*known, *FUNCTIONS]


def read_arguments(
    place: Position, start: int, end: int, nodes: dict[str, fx.Node]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments written between two positions. Raises UsageError; nothing is executed."""

    def substitute(match: re.Match[str]) -> str:
        return match[0] if match[1] is None else _PREFIX + match[1]

    written = place.text[start:end]
    try:
        tree = ast.parse(f"_({_QUOTED_OR_REFERENCE.sub(substitute, written)})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise place.error(f"literals and %references ({getattr(error, 'msg', error)})", start) from None
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise place.error("literals and %references", start)
    try:
        args = tuple(_value(place, start, node, nodes) for node in tree.args)
        named = [(k.arg, _value(place, start, k.value, nodes)) for k in tree.keywords]
    except RecursionError:
        raise place.error("arguments nested less deeply", start) from None
    if any(name is None for name, _ in named):
        raise place.error("arguments by position or by name, without **", start)
    return args, {str(name): value for name, value in named}


def _value(place: Position, start: int, node: ast.expr, nodes: dict[str, fx.Node]) -> Any:
    if isinstance(node, ast.Name):
        return _named(place, start, node.id, nodes)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(place, start, item, nodes) for item in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        pairs = zip(node.keys, node.values, strict=True)
        return {ast.literal_eval(k): _value(place, start, v, nodes) for k, v in pairs if k is not None}
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
        constant = getattr(torch, node.attr, None)
        if isinstance(constant, (torch.dtype, torch.layout, torch.memory_format)):
            return constant
    if ast.unparse(node) == "-inf":
        return -_NUMBERS["inf"]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise place.error(
            f"a literal or a %reference, got {ast.unparse(node).replace(_PREFIX, '%')!r}", start
        ) from None


def _named(place: Position, start: int, name: str, nodes: dict[str, fx.Node]) -> Any:
    if name.startswith(_PREFIX):
        wanted = name.removeprefix(_PREFIX)
        if wanted not in nodes:
            at = max(place.text.find(f"%{wanted}", start), 0)
            raise UnknownNameError("value", f"%{wanted}", [f"%{n}" for n in nodes], "program text, " + place.where(at))
        return nodes[wanted]
    dtypes = {text: dtype for dtype, text in DTYPES.items()}
    if name in dtypes:
        return dtypes[name]
    if name in _NUMBERS:
        return _NUMBERS[name]
    raise place.error(f"a literal, a dtype such as f32, or a reference such as %{name}; got {name!r}", start)
