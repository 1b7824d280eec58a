"""Bounds of the numbers in a symbolic size, without computing them."""

from __future__ import annotations

import ast

_SYMBOL_BITS = 64.0
_LARGE = 1e9
"""Bits of a number without a known bound."""
_POWERS = ("Pow", "PowByNatural", "FloatPow")


def size_bits(node: ast.expr) -> float:
    """An upper bound of the bits of every number in an expression. Raises ValueError unless it is arithmetic."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return max(1.0, float(abs(int(node.value)).bit_length()))
    if isinstance(node, ast.Name):
        return _SYMBOL_BITS
    if isinstance(node, ast.UnaryOp):
        return size_bits(node.operand)
    if isinstance(node, ast.BinOp):
        return _operation(type(node.op), node.left, node.right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id in _POWERS and len(node.args) == 2:
            return _operation(ast.Pow, *node.args)
        if node.func.id == "LShift" and len(node.args) == 2:
            return _operation(ast.LShift, *node.args)
        return sum(map(size_bits, node.args)) + len(node.args) + 1  # a product at most
    if isinstance(node, (ast.Compare, ast.BoolOp, ast.Tuple)):
        parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return max(map(size_bits, parts), default=1.0)
    raise ValueError(f"{type(node).__name__} is no arithmetic")


def _operation(kind: type[ast.operator], left: ast.expr, right: ast.expr) -> float:
    a, b = size_bits(left), size_bits(right)
    if kind is ast.Pow:
        return max(b, a * max(1.0, _exponent(right)))
    if kind is ast.LShift:
        return a + _exponent(right)
    return a + b + 1


def _exponent(node: ast.expr) -> float:
    """The size of a literal exponent; any other has no bound."""
    if isinstance(node, ast.UnaryOp):
        return _exponent(node.operand)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Integer", "Rational"):
        return _exponent(node.args[0]) if node.args else _LARGE
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _exponent(node.left)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return min(float(abs(node.value)), _LARGE)
    return _LARGE
