"""Where the dims of attention heads are contracted: products, and the projections after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from fxopt.ir.op_table import Trait, arguments, family, has
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program

ATTENTION = "aten.scaled_dot_product_attention"
_PRODUCTS = {"aten.matmul": ("self", "other"), "aten.bmm": ("self", "mat2")}
_SCALES = ("aten.mul.Tensor", "aten.mul.Scalar", "aten.div.Tensor", "aten.div.Scalar")


@dataclass(frozen=True)
class Meeting:
    """A product, the operands or the reader whose dims it contracts, the linears at both ends, and all nodes in between."""

    product: fx.Node
    left: fx.Node
    right: fx.Node
    inward: bool
    first: fx.Node
    second: fx.Node
    path: frozenset[fx.Node]


def find_meetings(program: Program) -> tuple[list[Meeting], dict[fx.Node, str]]:
    """All of them, and why an attention or a product of projections is none."""
    found, reasons = [], dict[fx.Node, str]()
    for node in program.graph.nodes:
        for left, right, inward in _operands(node):
            path: set[fx.Node] = set()
            first = _source(program, left, path)
            second = _reader(program, node, path) if inward else _source(program, right, path)
            if isinstance(first, fx.Node) and isinstance(second, fx.Node):
                found.append(Meeting(node, left, right, inward, first, second, frozenset(path)))
            elif op_name(node) == ATTENTION or (
                not inward and (isinstance(first, fx.Node) or isinstance(second, fx.Node))
            ):
                reasons[node] = first if isinstance(first, str) else str(second)
    for meeting in found:  # a plain product is either that of queries and keys or that of values
        if op_name(meeting.product) != ATTENTION:
            reasons.pop(meeting.product, None)
    return found, reasons


def _operands(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node, bool]]:
    if node.op == "call_function" and op_name(node) == ATTENTION:
        call = arguments(node)
        yield call["query"], call["key"], False
        yield call["value"], node, True
    elif node.op == "call_function" and op_name(node) in _PRODUCTS:
        first, second = (arguments(node)[name] for name in _PRODUCTS[op_name(node)])
        yield first, second, False
        yield second, node, True


def _source(program: Program, node: fx.Node, path: set[fx.Node]) -> fx.Node | str:
    """The linear that a value comes from, or why there is none."""
    while moves(node):
        path.add(node)
        node = node.args[0]  # type: ignore[assignment]
    if node.op != "call_function" or op_name(node) != "aten.linear":
        what = op_name(node) if node.op == "call_function" else "an input"
        return f"between the projection and the product stands {what}, which treats the dims of a head differently"
    return _stored(program, node)


def _reader(program: Program, node: fx.Node, path: set[fx.Node]) -> fx.Node | str:
    """The linear that alone reads a value, or why there is none."""
    while len(node.users) == 1:
        (user,) = node.users
        if user.op == "call_function" and op_name(user) == "aten.linear" and user.args[0] is node:
            return _stored(program, user)
        if not moves(user):
            return f"what reads it is {user.name}, no projection"
        path.add(user)
        node = user
    return "its result is read in several places"


def moves(node: fx.Node) -> bool:
    """Whether a node only rearranges, repeats or selects values, or scales all of them by one factor."""
    if node.op != "call_function":
        return False
    one = sum(isinstance(n.meta.get("val"), (torch.Tensor, list, tuple)) for n in node.all_input_nodes) == 1
    return scales(node) or (one and family(node) in ("layout", "copy", "pick")) or has(node, Trait.SAME_VALUE)


def scales(node: fx.Node) -> bool:
    """Whether a node multiplies all values by one factor."""
    return node.op == "call_function" and op_name(node) in _SCALES and isinstance(node.args[1], (int, float))


def _stored(program: Program, linear: fx.Node) -> fx.Node | str:
    call = arguments(linear)
    for operand in (call["weight"], call["bias"]):
        tensor = program.tensor(operand)
        if operand is not None and tensor is None:
            return f"a weight of %{linear.name} is computed, not stored"
        same = [n for n in program.graph.nodes if tensor is not None and program.tensor(n) is tensor]
        if tensor is not None and {user for n in same for user in n.users} != {linear}:
            return f"a weight of %{linear.name} is read in several places"
        if tensor is not None and tensor.dtype not in (torch.float32, torch.float64):
            return f"a weight of %{linear.name} is {tensor.dtype}: rotate in float32, cast after it"
    return linear
