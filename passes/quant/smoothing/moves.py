"""Ops that only move elements: the source of each element of the result, found by running the op on indices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.op_table import Trait, family, has, named, pads_zeros
from fxopt.ir.printer import op_name
from fxopt.passes.quant.smoothing.needs import FREE, Needs, is_tensor

MOVES = named(Trait.REARRANGES)


def operands(needs: Needs, node: fx.Node) -> list[fx.Node]:
    """The tensors whose elements ``node`` moves into its result; none where it does more, or sizes are unknown."""
    op = maker(node)
    if not has(op, Trait.REARRANGES) or any(
        needs.numbers.get(n) is None for n in op.all_input_nodes if not is_tensor(n)
    ):
        return []
    if family(op) == "pad" and not pads_zeros(op):  # zeros are zeros when they are divided
        return []
    first = op.args[0]
    return [first] if isinstance(first, fx.Node) else list(first)  # type: ignore[arg-type]


def divide_moved(needs: Needs, node: fx.Node, need: torch.Tensor) -> Iterator[tuple[fx.Node, torch.Tensor]]:
    """What the tensors must be divided by whose elements ``node`` moves."""
    parts = list(dict.fromkeys(operands(needs, node)))
    if need.numel() == 1 and family(maker(node)) != "pick":
        yield from ((part, need.reshape(())) for part in parts)
        return
    sizes = [math.prod(needs.shape(part)) for part in parts]
    starts = [sum(sizes[:i]) for i in range(len(parts))]
    numbered = {
        part: torch.arange(start + 1, start + size + 1).reshape(needs.shape(part))
        for part, start, size in zip(parts, starts, sizes, strict=True)
    }
    index = _moved(needs, node, numbered) - 1  # numbered from 1, as 0 is padding
    for part, start in zip(parts, starts, strict=True):
        yield part, send_back(needs, need, index - start, needs.shape(part))


def send_back(needs: Needs, need: torch.Tensor, index: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The need of a value of ``shape``, where a result with the need ``need`` consists of its elements ``index``.

    An index outside the value is an element of another one.
    """
    back = torch.full((math.prod(shape),), FREE)
    labels, places = need.expand(index.shape).reshape(-1), index.reshape(-1)
    read = (labels != FREE) & (places >= 0) & (places < len(back))
    labels, places = labels[read], places[read]
    back[places] = labels
    needs.unite(back[places], labels, "a part of what it reads is needed as it is")
    return back.reshape(shape)


def _moved(needs: Needs, node: fx.Node, numbered: dict[fx.Node, torch.Tensor]) -> torch.Tensor:
    op = maker(node)

    def stand_in(value: Any) -> Any:
        if not isinstance(value, fx.Node):
            return value
        if value in needs.numbers:
            return needs.numbers[value]
        return numbered[value] if value in numbered else torch.zeros(needs.shape(value), dtype=torch.int64)

    args, kwargs = pytree.tree_map(stand_in, (op.args, dict(op.kwargs)))
    value: Any = op.target(*args, **kwargs)  # type: ignore[operator]
    return value if op is node else value[node.args[1]]


def maker(node: fx.Node) -> fx.Node:
    """The op that computes the value of ``node``, which may select one of several results."""
    return node.args[0] if op_name(node) == "getitem" else node  # type: ignore[return-value]
