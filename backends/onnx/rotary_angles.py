"""Whether cosines or sines are the same for both halves of a vector, by the ops that make them."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import Trait, arguments, has
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program

_PICKS = (
    "aten.unsqueeze",
    "aten.expand",
    "aten.slice.Tensor",
    "aten.select.int",
    "aten.index.Tensor",
    "aten.embedding",
)
"""What takes rows, or gives them more dims."""


def repeats(program: Program, node: Any, half: int) -> bool:
    """Whether the last dim of a value is twice the same ``half``, by the ops that make it."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, torch.Tensor) or value.dim() == 0 or value.shape[-1] == 1:
        return True  # one number for all
    if (stored := program.tensor(node)) is not None:
        return bool((stored[..., :half] == stored[..., half:]).all())
    name, inputs = op_name(node), node.all_input_nodes
    if name == "aten.cat":
        call = arguments(node)
        last = call["dim"] % value.dim() == value.dim() - 1
        if last:
            return len(call["tensors"]) == 2 and call["tensors"][0] is call["tensors"][1]
        return all(repeats(program, part, half) for part in call["tensors"])
    if name in _PICKS:
        source, last = node.args[0], node.args[0].meta["val"].dim() - 1
        taken = name == "aten.select.int" and node.args[1] % (last + 1) == last
        taken |= name == "aten.index.Tensor" and len(node.args[1]) > last
        return source.meta["val"].shape[-1] == value.shape[-1] and not taken and repeats(program, source, half)
    if has(node, Trait.ELEMENTWISE) or has(node, Trait.CAST) or has(node, Trait.SAME_VALUE):
        return all(repeats(program, part, half) for part in inputs)
    return False
