"""Layers as matrices: a convolution's or linear's weight by group, output and input channel, and what is required of it."""

from __future__ import annotations

from collections import Counter

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt import Program
from fxopt.ir.op_table import DIRECT, TRANSPOSED, arguments
from fxopt.ir.printer import op_name

LAYERS = (*DIRECT, *TRANSPOSED, "aten.linear")


def channel_dim(node: fx.Node) -> int:
    """The dim of a layer's input and output that holds the channels."""
    rank = int(node.meta["val"].dim())
    return rank - 1 if op_name(node) == "aten.linear" else rank + 1 - int(arguments(node)["weight"].meta["val"].dim())


def grouped(program: Program, node: fx.Node) -> torch.Tensor:
    """The weight in float64 as [group, out, in, kernel]; a linear has one group and a kernel of 1."""
    call = arguments(node)
    weight = program.tensor(call["weight"])
    assert weight is not None
    groups = call.get("groups", 1)
    if op_name(node) in TRANSPOSED:
        return weight.detach().double().reshape(groups, -1, *weight.shape[1:2], weight[0, 0].numel()).transpose(1, 2)
    return weight.detach().double().reshape(groups, -1, *weight.shape[1:2], weight[0, 0].numel())


def ungrouped(program: Program, node: fx.Node, weight: torch.Tensor) -> torch.Tensor:
    """Back to the shape and dtype of the layer's own weight."""
    old = program.tensor(arguments(node)["weight"])
    assert old is not None
    return (weight.transpose(1, 2) if op_name(node) in TRANSPOSED else weight).reshape(old.shape).to(old.dtype)


def readers(program: Program) -> Counter[int]:
    """How many times each weight is read, by its id: tied ones count together."""
    found: Counter[int] = Counter()
    for node in program.graph.nodes:
        tensor = program.tensor(node)
        for user in node.users if tensor is not None else ():
            found[id(tensor)] += sum(leaf is node for leaf in pytree.tree_leaves((user.args, dict(user.kwargs))))
    return found


def unusable(program: Program, node: fx.Node, read: Counter[int]) -> str | None:
    """Why a layer's weight and bias, read as often as ``read`` says, cannot be changed; None where they can."""
    call = arguments(node)
    weight, bias = program.tensor(call["weight"]), program.tensor(call["bias"])
    if weight is None or (call["bias"] is not None and bias is None):
        return "its weight or bias is computed, not stored"
    for what, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            return f"its {what} is no floating-point tensor, or holds NaN or infinity"
        if read[id(tensor)] > 1:
            return f"its {what} is shared with another place of the graph"
    return None if weight.dim() > 1 and weight.numel() else "its weight is no matrix"
