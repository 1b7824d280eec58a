"""Whether inputs fit a program: structure, dtypes, static sizes, the bounds of dynamic ones, and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.printer import type_text

_Ranges = Mapping[str, tuple[int, int | None]]


class Interface(Protocol):
    """The part of :class:`fxopt.Program` that defines its interface."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    ranges: dict[str, tuple[int, int | None]]

    @property
    def graph(self) -> fx.Graph:
        """The graph with typed placeholders."""

    @property
    def in_spec(self) -> pytree.TreeSpec | None:
        """Structure of the arguments."""

    def example_leaves(self) -> list[Any]:
        """The example inputs, flat."""

    def signature(self) -> str:
        """Inputs and outputs as text."""

    def dims(self) -> dict[str, str]:
        """Names of the dynamic sizes."""


def misfit(program: Interface, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Why inputs do not fit a program; None if they do.

    Dicts may have their keys in any order. A number must be the one that the program was captured with, as it is part
    of the graph. The sizes of the example are always right, also where torch took them for a special case.
    """
    spec = program.in_spec or pytree.tree_structure((program.args, program.kwargs))
    try:
        leaves = spec.flatten_up_to((args, kwargs))
    except ValueError as error:
        given = [type_text(v) for v in args] + [f"{name}: {type_text(v)}" for name, v in kwargs.items()]
        return f"expected {program.signature()}, got other arguments ({', '.join(given)}): {error}"
    sizes: dict[str, int] = {}
    # this runs at every call, so nothing here walks the whole graph or formats a symbol
    inputs = program.graph.find_nodes(op="placeholder")
    for node, leaf, example in zip(inputs, leaves, program.example_leaves(), strict=True):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            problem = _tensor_problem(value, leaf, example, sizes, program.ranges)
        elif isinstance(value, torch.SymInt):
            problem = _size_problem(value, leaf, example, sizes, program.ranges) if type(leaf) is int else ""
        elif isinstance(example, torch.Tensor) or _same_number(leaf, example):
            continue
        else:
            return f"expected {node.target} = {example!r}, got {_shown(leaf)}"
        if problem is not None:
            dims = program.dims()
            symbol, space, rest = problem.partition(" ")
            where = f" ({dims.get(symbol, symbol)}{space}{rest})" if problem else ""
            return f"expected {node.target}: {type_text(value, dims)}{where}, got {_shown(leaf)}"
    return None


def _tensor_problem(
    value: torch.Tensor, leaf: Any, example: torch.Tensor, sizes: dict[str, int], ranges: _Ranges
) -> str | None:
    """The requirement beyond the type, "" where the type says all; None if the tensor fits."""
    # the dtype of the example: a float64 copy of a program keeps the old one in its nodes
    if not isinstance(leaf, torch.Tensor) or leaf.dtype != example.dtype or leaf.dim() != value.dim():
        return "" if value.dtype == example.dtype else str(example.dtype)
    problems = (
        _size_problem(*three, sizes, ranges) for three in zip(value.shape, leaf.shape, example.shape, strict=True)
    )
    return next((p for p in problems if p is not None), None)


def _size_problem(want: Any, got: int, example: int, sizes: dict[str, int], ranges: _Ranges) -> str | None:
    if not isinstance(want, torch.SymInt):
        return None if want == got else ""
    expression = want.node.expr
    if expression.is_number:
        return None if int(expression) == got else ""
    symbol = expression.name if expression.is_symbol else str(expression)
    if sizes.setdefault(symbol, got) != got:
        return f"{symbol} is {sizes[symbol]} in another input"
    if not expression.is_symbol and got % (number := abs(int(expression.as_coeff_Mul()[0])) or 1):
        return f"{symbol} a multiple of {number}"
    low, high = ranges.get(symbol, (0, None))
    if got == example or (low <= got and (high is None or got <= high)):
        return None
    return f"{symbol} from {low}" + ("" if high is None else f" to {high}")


def _same_number(got: Any, want: Any) -> bool:
    return got is want or repr(got) == repr(want) or (isinstance(got, (int, float)) and bool(got == want))


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, (int, float, str, type(None))) else type_text(value)
