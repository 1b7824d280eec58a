"""Weights quantized with a scale for each block, of which the scales can be refitted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from fxopt.ir.op_table import PRODUCT_OPERANDS, arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program

_OP = "quantized_decomposed.dequantize_per_channel_group"


@dataclass(frozen=True)
class Coded:
    """The node that a layer reads as its weight, and the stored scales ``[out, blocks]`` of ``block`` inputs each."""

    weight: fx.Node
    scales: fx.Node
    block: int

    @property
    def name(self) -> str:
        """The name that the weight had before it was quantized."""
        return str(self.scales.target).removesuffix("_scale")


def coded_weight(program: Program, layer: fx.Node) -> Coded | None:
    """The quantized weight of a linear or product; None if it has none, or something else reads it too."""
    operands = PRODUCT_OPERANDS.get(op_name(layer))
    weight = arguments(layer)[operands[1]] if operands else None
    node = weight
    while (
        isinstance(node, fx.Node)
        and len(node.users) == 1
        and op_name(node) in ("aten.transpose.int", "aten.slice.Tensor")
    ):
        node = node.args[0]
    if not isinstance(node, fx.Node) or op_name(node) != _OP or len(node.users) != 1:
        return None
    scales = node.args[1]
    if program.tensor(scales) is None or len(scales.users) != 1:  # type: ignore[union-attr]
        return None
    assert isinstance(weight, fx.Node)
    return Coded(weight, scales, int(node.args[6]))  # type: ignore[arg-type]


def real(program: Program, node: fx.Node) -> torch.Tensor:
    """The value of a node that is computed from stored tensors alone."""
    tensor = program.tensor(node)
    if tensor is not None:
        return tensor.detach()
    args = fx.node.map_arg(node.args, lambda n: real(program, n))
    result: torch.Tensor = node.target(*args, **node.kwargs)  # type: ignore[operator]
    return result
