"""Write dynamic quantization into the graph."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection
from typing import Literal

import torch
from torch import fx

from fxopt.ir.alias_analysis import written
from fxopt.ir.op_table import PRODUCT_OPERANDS, arguments, set_argument
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.quant.emit import dequantized
from fxopt.passes.quant.encode import Codes
from fxopt.passes.quant.weight_only.choose_weights import BlockWeight

_SMALLEST = torch.finfo(torch.float32).tiny
"""Least scale of an activation, for one that is all zeros."""


def emit_dynamic(program: Program, chosen: dict[BlockWeight, Codes], range_of: Literal["tensor", "token"]) -> None:
    """Let the layers of each weight read it dequantized, and their input through ops that quantize it at run time.

    Weights are quantized by rows, and stored as the layers read them; inputs over the range of the whole tensor or of each
    token.
    """
    for weight, codes in chosen.items():
        if weight.transposed:
            codes = dataclasses.replace(codes, integers=codes.integers.T.contiguous(), axis=1)
        real = dequantized(program, codes, weight.layers[0])
        for layer in weight.layers:
            set_argument(layer, PRODUCT_OPERANDS[op_name(layer)][1], real)
    quantize_inputs(program, {layer for weight in chosen for layer in weight.layers}, range_of)


def quantize_inputs(program: Program, layers: Collection[fx.Node], range_of: Literal["tensor", "token"]) -> None:
    """Let layers read their input through ops that quantize it at run time.

    Layers that read the same value share its quantized form, unless the graph writes into memory, which may happen between
    them.
    """
    may_share = not any(written(node) for node in program.graph.nodes)
    known: dict[fx.Node, fx.Node] = {}
    for layer in [node for node in program.graph.nodes if node in layers]:
        operand = PRODUCT_OPERANDS[op_name(layer)][0]
        source = arguments(layer)[operand]
        if source not in known or not may_share:
            known[source] = _through_codes(program, source, layer, range_of)
        set_argument(layer, operand, known[source])


def _through_codes(program: Program, source: fx.Node, before: fx.Node, range_of: Literal["tensor", "token"]) -> fx.Node:
    """Quantize a value to 8 bits over its range and back, in front of its first reader."""
    ops, call = torch.ops.quantized_decomposed, program.graph.call_function
    wide: tuple[torch.dtype, ...] = ()
    with program.graph.inserting_before(before):
        if range_of == "tensor":
            form = (0, 255, torch.uint8)
            range_ = call(ops.choose_qparams.tensor, (source, 0, 255, _SMALLEST, torch.uint8))
            quantize, dequantize = ops.quantize_per_tensor.tensor, ops.dequantize_per_tensor.tensor
        else:
            form = (-128, 127, torch.int8)
            range_ = call(ops.choose_qparams_per_token_asymmetric.default, (source, torch.int8))
            quantize, dequantize, wide = (
                ops.quantize_per_token.default,
                ops.dequantize_per_token.default,
                (torch.float32,),
            )
        scale, zero = call(operator.getitem, (range_, 0)), call(operator.getitem, (range_, 1))
        integers = call(quantize, (source, scale, zero, *form))
        real = call(dequantize, (integers, scale, zero, *form, *wide))
    for node in (range_, scale, zero, integers, real):
        node.meta["stack_trace"] = before.meta.get("stack_trace")
    return real
