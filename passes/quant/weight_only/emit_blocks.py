"""Emit block-quantized weights into the graph."""

from __future__ import annotations

import importlib

import torch

from fxopt.ir.op_table import PRODUCT_OPERANDS, set_argument
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.quant.weight_only.blocks import BlockCodes
from fxopt.passes.quant.weight_only.choose_weights import BlockWeight

importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the op


def emit_blocks(program: Program, weight: BlockWeight, codes: BlockCodes, name: str) -> None:
    """Let the layers of a weight read the quantized one, stored as ``name``, through shared nodes."""
    first, grid = weight.layers[0], codes.grid
    scales = program.add_tensor(f"{weight.name}_scale", codes.scales, first)
    integers = program.add_tensor(name, codes.integers, scales)
    target = torch.ops.quantized_decomposed.dequantize_per_channel_group.default
    numbers = (grid.low, grid.high, torch.int8, grid.block, torch.float32)
    with program.graph.inserting_before(first):
        real = program.graph.call_function(target, (integers, scales, None, *numbers))
    real.meta["stack_trace"] = first.meta.get("stack_trace")
    if codes.integers.shape[1] > codes.inputs:
        real = program.call(torch.ops.aten.slice.Tensor, real, 1, 0, codes.inputs, like=real)
    if weight.transposed:
        real = program.call(torch.ops.aten.transpose.int, real, 0, 1, like=real)
    for layer in weight.layers:
        set_argument(layer, PRODUCT_OPERANDS[op_name(layer)][1], real)
