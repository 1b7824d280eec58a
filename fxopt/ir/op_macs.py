"""How to count the multiply-accumulates of contractions."""

from __future__ import annotations

import math

from torch import fx

from fxopt.ir.op_traits import Shape


def conv(node: fx.Node, shape: Shape) -> int:
    """Of a convolution."""
    weight = shape(node.all_input_nodes[1])  # [out, in / groups, *kernel]
    return math.prod(shape(node)) * math.prod(weight[1:])


def conv_transpose(node: fx.Node, shape: Shape) -> int:
    """Of a transposed convolution."""
    weight = shape(node.all_input_nodes[1])  # [in, out / groups, *kernel]
    return math.prod(shape(node.all_input_nodes[0])) * math.prod(weight[1:])


def last_of_first(node: fx.Node, shape: Shape) -> int:
    """Of a product that sums over the last dim of its first operand."""
    return math.prod(shape(node)) * shape(node.all_input_nodes[0])[-1]


def last_of_second(node: fx.Node, shape: Shape) -> int:
    """Of a product that sums over the last dim of its second operand; the first is added."""
    return math.prod(shape(node)) * shape(node.args[1])[-1]  # type: ignore[arg-type]


def attention(node: fx.Node, shape: Shape) -> int:
    """Of both products of scaled dot-product attention."""
    query, key, value = (shape(n) for n in node.args[:3])  # type: ignore[arg-type]
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def einsum(node: fx.Node, shape: Shape) -> int:
    """Of an Einstein sum: the sizes of all its indices; none of a single operand."""
    equation = str(node.args[0]).replace(" ", "").split("->")[0]
    operands: list[fx.Node] = list(node.args[1])  # type: ignore[arg-type]
    if len(operands) < 2:
        return 0
    sizes = {
        s: n
        for term, a in zip(equation.split(","), operands, strict=True)
        for s, n in zip(term, shape(a), strict=False)
    }
    return math.prod(sizes.values())
