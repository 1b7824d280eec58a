"""How the channels of a value get into another: through ops that treat every channel alike, and linearly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.op_table import Trait, arguments, family, has
from fxopt.ir.printer import op_name

_SUMS = ("aten.add.Tensor", "aten.sub.Tensor")
_PRODUCTS = ("aten.mul.Tensor", "aten.div.Tensor")
_NUMBERS = ("aten.neg", "aten.mul.Scalar", "aten.div.Scalar")
_PICKS = ("aten.index.Tensor", "aten.index_select")
_LINEAR = ("aten.mean.dim", "aten.sum.dim_IntList", "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d")
_POOLS = ("aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d", "aten.adaptive_avg_pool3d")
_MATMULS = ("aten.matmul", "aten.bmm", "aten.mm")

Source = tuple[fx.Node, int]
"""A value and its dim of channels."""


def sizes(node: Any) -> tuple[int, ...]:
    """The sizes of a tensor, of dynamic ones those of the example; none for anything else, or where values decide them."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    found = tuple(map(_hint, value.shape)) if isinstance(value, torch.Tensor) else ()
    return () if None in found else found


def is_float(node: Any) -> bool:
    """Whether a node holds one tensor of floating-point numbers."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def reads_numbers(user: fx.Node) -> bool:
    """Whether a call, or the output, looks at more of its operands than sizes and dtypes."""
    return family(user) not in ("create", "size", "check") and not has(user, Trait.READS_FORM_ONLY)


def results(user: fx.Node) -> Iterator[fx.Node]:
    """The tensors that a call gives: itself, or the parts that are picked from a list."""
    if isinstance(user.meta.get("val"), (list, tuple)):
        yield from user.users
    else:
        yield user


def sources(node: fx.Node, dim: int, channels: int) -> list[Source]:
    """The operands, with their dims, whose channels are those of a value along ``dim``; empty where an op mixes them.

    Index i of such a dim is channel ``i % channels``. If a matrix is applied to the channels of all of these operands it
    is applied to those of the value: the op is linear in them together and does the same to every channel.
    """
    if node.op != "call_function" or not is_float(node):
        return []
    name = op_name(node)
    if name in _SUMS:
        return _of_sum(node, dim)
    if name in _PRODUCTS:
        return _of_product(node, dim)
    if name in _MATMULS:
        first, other = node.args[:2]
        wide = isinstance(other, fx.Node) and other.op != "get_attr" and len(sizes(other)) > 1 and other is not first
        return [(other, len(sizes(other)) - 1)] if wide and dim == len(sizes(node)) - 1 else []  # type: ignore[list-item]
    same = (
        has(node, Trait.SAME_VALUE) or has(node, Trait.CAST) or (has(node, Trait.DROPOUT) and family(node) != "random")
    )
    if same or name in _NUMBERS:
        operand = node.args[0]
        return [(operand, dim)] if is_float(operand) and sizes(operand) == sizes(node) else []  # type: ignore[list-item]
    call = node.args[0] if name == "getitem" else node
    if isinstance(call, fx.Node) and (has(call, Trait.REARRANGES) or op_name(call) in (*_PICKS, *_LINEAR, *_POOLS)):
        return _of_layout(node, call, dim, channels)
    return []


def keeps_constants(node: fx.Node, source: Source, dim: int, channels: int) -> bool:
    """Whether a vector that is added to the channels of the source is added to those of a value that has it alone."""
    name = op_name(node)
    if name in (*_SUMS, *_PRODUCTS, *_MATMULS, *_NUMBERS):
        return False
    if name == "getitem" or has(node, Trait.REARRANGES) or name in (*_PICKS, *_LINEAR, *_POOLS):
        call = node.args[0] if name == "getitem" else node
        factors = _factors(node, call, source, dim, channels)  # type: ignore[arg-type]
        return factors is not None and bool((factors == 1).all())
    return True


def _of_sum(node: fx.Node, dim: int) -> list[Source]:
    found = [_aligned(node, operand, dim) for operand in node.args[:2]]
    return [source for source in found if source] if all(found) else []


def _of_product(node: fx.Node, dim: int) -> list[Source]:
    """One factor, where the other is one number for all channels."""
    first, second = node.args[:2]
    for operand, other in ((first, second), (second, first))[: 1 if op_name(node).startswith("aten.div") else 2]:
        at = dim - len(sizes(node)) + len(sizes(other))
        if (at < 0 or sizes(other)[at] == 1) and (source := _aligned(node, operand, dim)):
            return [source]
    return []


def _aligned(node: fx.Node, operand: Any, dim: int) -> Source | None:
    """The dim of an operand that is broadcast to a result; None where it is one number for all channels."""
    at = dim - len(sizes(node)) + len(sizes(operand))
    return (operand, at) if at >= 0 and is_float(operand) and sizes(operand)[at] == sizes(node)[dim] else None


def _of_layout(node: fx.Node, call: fx.Node, dim: int, channels: int) -> list[Source]:
    found: list[Source] = []
    for operand in dict.fromkeys(filter(is_float, call.all_input_nodes)):
        dims = (d for d, size in enumerate(sizes(operand)) if size % channels == 0)
        source = next(
            ((operand, d) for d in dims if _factors(node, call, (operand, d), dim, channels) is not None), None
        )
        if source is None:
            return []
        found.append(source)
    return found


def _factors(node: fx.Node, call: fx.Node, source: Source, dim: int, channels: int) -> torch.Tensor | None:
    """What the source's channels are multiplied by, ``[...]`` for every other dim of the result; None if they are mixed.

    Found by running the op on the numbers of the channels, which zeros stand for where something else comes in; and on
    numbers of the places that channels have, each of which must be in the same place of the result for all channels.
    """
    shape, at = sizes(source[0]), source[1]
    if sizes(node)[dim] % channels:
        return None
    value = _picked(node, call, source[0], _numbered(shape, at, channels))
    if value is None or value.dim() <= dim or value.shape[dim] % channels:
        return None
    first = value.select(dim, 0)
    expected = first.unsqueeze(dim) * _numbered(value.shape, dim, channels)
    if not bool((first != 0).any()) or not torch.allclose(value, expected, rtol=1e-9, atol=0):
        return None
    blocks = [shape[at] // channels if i == at else size for i, size in enumerate(shape)]
    places = torch.arange(1, math.prod(blocks) + 1, dtype=torch.float64).reshape(blocks)
    value = _picked(node, call, source[0], places.repeat_interleave(channels, at))
    if value is None:
        return None
    value = value.unflatten(dim, (-1, channels))
    return first if torch.allclose(value, value.narrow(dim + 1, 0, 1), rtol=1e-9, atol=0) else None


def _picked(node: fx.Node, call: fx.Node, operand: fx.Node, numbers: torch.Tensor) -> torch.Tensor | None:
    """The value of a node, a call or a part of what that gives, with numbers for one operand and zeros for the others."""
    value = _run(call, operand, numbers)
    if value is not None and call is not node:
        value = value[node.args[1]]
    return value if isinstance(value, torch.Tensor) else None


def _numbered(shape: tuple[int, ...], dim: int, channels: int) -> torch.Tensor:
    """Along a dim the numbers 1, 2, … of the channels, float64, over and over."""
    numbers = torch.arange(shape[dim], dtype=torch.float64) % channels + 1
    return numbers.reshape([-1 if i == dim else 1 for i in range(len(shape))]).expand(shape)


def _run(call: fx.Node, operand: fx.Node, numbers: torch.Tensor) -> Any:
    """The call with numbers for one operand and zeros for the others; None where these decide its sizes."""

    def value(argument: fx.Node) -> Any:
        if argument is operand:
            return numbers.contiguous()
        held = argument.meta.get("val")
        if not isinstance(held, torch.Tensor):
            return _hint(held)
        if held.dtype == torch.bool:
            raise ValueError("a mask")
        return torch.zeros(sizes(argument), dtype=torch.float64 if held.is_floating_point() else held.dtype)

    try:
        args, kwargs = pytree.tree_map_only(fx.Node, value, (call.args, dict(call.kwargs)))
        return call.target(*args, **kwargs)  # type: ignore[operator]
    except (ValueError, RuntimeError, IndexError, TypeError):
        return None


def _hint(size: Any) -> Any:
    return size.node.hint if isinstance(size, torch.SymInt) else size


def width_of(norm: fx.Node) -> int | None:
    """The number of channels that a layer or RMS norm is over, if these are the last dim alone."""
    shape = arguments(norm)["normalized_shape"]
    return int(shape[0]) if len(shape) == 1 and shape[0] > 1 else None


def is_norm_over(node: fx.Node, op: str, channels: int) -> bool:
    """Whether a node is a norm ``op`` over so many channels alone."""
    return node.op == "call_function" and op_name(node) == op and width_of(node) == channels
