"""Rotary embeddings as models write them: ``x * cos + rotate_half(x) * sin``.

Su et al. 2021, eq. 34, with the two halves of a vector in the place of pairs of neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.backends.onnx.rotary_angles import repeats
from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import size_expressions


@dataclass(frozen=True)
class Rotary:
    """The sum ``result``, the ``value`` that is turned, and the factors ``cosine`` and ``sine``, broadcast to it."""

    result: fx.Node
    value: fx.Node
    cosine: fx.Node
    sine: fx.Node


def match_rotary(result: fx.Node) -> Rotary | None:
    """The rotary embedding that a sum ``aten.add.Tensor`` gives; None for another sum."""
    products = [n for n in result.args[:2] if isinstance(n, fx.Node) and op_name(n) == "aten.mul.Tensor"]
    if len(products) != 2 or result.kwargs.get("alpha", 1) != 1:
        return None
    for plain, turned in (products, products[::-1]):
        for half, sine in (turned.args[:2], turned.args[1::-1]):
            value = _rotated(half)
            if value is None or value not in plain.args[:2]:
                continue
            cosine = plain.args[1] if plain.args[0] is value else plain.args[0]
            if isinstance(cosine, fx.Node) and isinstance(sine, fx.Node):
                return Rotary(result, value, cosine, sine)
    return None


def rotary_written_out(program: Program, rotary: Rotary) -> str | None:
    """Why the runtime's kernel is not for a rotary embedding; None if it is."""
    value = rotary.value.meta["val"]
    if value.dtype != torch.float32 or rotary.result.meta["val"].dtype != torch.float32:
        return "the kernel is for float32"
    if value.dim() != 4:
        return "it does not have four dims"
    batch, heads, length, width = size_expressions(value.shape)
    if not isinstance(heads, int) or not isinstance(width, int):
        return "the number or the size of its heads can vary"
    shapes = []
    for angles in (rotary.cosine, rotary.sine):
        shape = size_expressions(angles.meta["val"].shape)
        shapes.append([1] * (4 - len(shape)) + list(shape))
    if shapes[0] != shapes[1] or shapes[0][1:] != [1, length, width] or shapes[0][0] not in (1, batch):
        return "its angles are not one vector for each position"
    if not all(repeats(program, angles, width // 2) for angles in (rotary.cosine, rotary.sine)):
        return "the angles of both halves are not known to be the same"
    return None


def _rotated(node: Any) -> fx.Node | None:
    """What ``cat([-x2, x1], -1)`` is of, x1 and x2 being its halves."""
    if not isinstance(node, fx.Node) or op_name(node) != "aten.cat":
        return None
    call = arguments(node)
    parts = call["tensors"]
    if len(parts) != 2 or call["dim"] % node.meta["val"].dim() != node.meta["val"].dim() - 1:
        return None
    if op_name(parts[0]) != "aten.neg":
        return None
    sources = [_half(parts[0].args[0], first=False), _half(parts[1], first=True)]
    return sources[0] if sources[0] is sources[1] else None


def _half(node: Any, *, first: bool) -> fx.Node | None:
    """What a node is the first or second half of, in the last dim."""
    name = op_name(node) if isinstance(node, fx.Node) else ""
    piece = name == "getitem" and op_name(node.args[0]) in ("aten.chunk", "aten.split.Tensor")
    if not piece and name != "aten.slice.Tensor":
        return None
    call = arguments(node.args[0] if piece else node)
    source = call["self"]
    shape = source.meta["val"].shape
    last, width = len(shape) - 1, shape[-1]
    if call["dim"] % len(shape) != last or not isinstance(width, int) or 2 * node.meta["val"].shape[-1] != width:
        return None
    if piece:
        return source if node.args[1] == int(not first) else None
    bounds = range(width)[call["start"] : call["end"] : call["step"]]
    return source if bounds == (range(width // 2) if first else range(width // 2, width)) else None
