"""How heads are split from the last dim of a projection, and merged into it again."""

from __future__ import annotations

import torch
from torch import fx

from fxopt.backends.onnx.shaped_calls import call
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import size_expressions

COPIES = ("aten.contiguous", "aten.clone", "aten.alias")
RESHAPES = ("aten.view", "aten.reshape", "aten.flatten.using_ints", "aten.unflatten.int", "aten._unsafe_view")
aten = torch.ops.aten


def split_from(part: fx.Node) -> fx.Node | None:
    """The value ``[N, length, heads, width]`` that ``[N, heads, length, width]`` was turned from, if it was."""
    split = _past_copies(part)
    return split.args[0] if turns_heads(split) else None  # type: ignore[return-value]


def merged(program: Program, part: fx.Node) -> fx.Node:
    """Query, key or value ``[N, heads, length, width]`` as ``[N, length, heads * width]``: what it was split from, if it was."""
    batch, heads, length, width = part.meta["val"].shape
    turned = split_from(part) or call(program, aten.transpose.int, part, 1, 2)
    source = _past_copies(turned)
    before = source.args[0] if op_name(source) in RESHAPES else None
    want = size_expressions((batch, length, heads * width))
    if isinstance(before, fx.Node) and size_expressions(before.meta["val"].shape) == want:
        return before
    return call(program, aten.flatten.using_ints, turned, 2, 3)


def turns_heads(node: fx.Node) -> bool:
    """Whether a node exchanges the second and third of four dims."""
    return op_name(node) == "aten.transpose.int" and {dim % 4 for dim in node.args[1:]} == {1, 2}  # type: ignore[operator]


def _past_copies(node: fx.Node) -> fx.Node:
    """What a value is a copy of."""
    while op_name(node) in COPIES:
        node = node.args[0]  # type: ignore[assignment]
    return node
