"""Write dynamic quantization into the graph."""

from __future__ import annotations

import dataclasses
import operator

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


def emit_dynamic(program: Program, chosen: dict[BlockWeight, Codes]) -> None:
    """Let the layers of each weight read it dequantized, and their input through ops that quantize it at run time.

    Weights are quantized by rows, and stored as the layers read them. Layers that read the same value share its quantized
    form, unless the graph writes into memory, which may happen between them.
    """
    stored: dict[fx.Node, fx.Node] = {}
    for weight, codes in chosen.items():
        if weight.transposed:
            codes = dataclasses.replace(codes, integers=codes.integers.T.contiguous(), axis=1)
        stored |= dict.fromkeys(weight.layers, dequantized(program, codes, weight.layers[0]))
    may_share = not any(written(node) for node in program.graph.nodes)
    known: dict[fx.Node, fx.Node] = {}
    for layer in [node for node in program.graph.nodes if node in stored]:
        operands = PRODUCT_OPERANDS[op_name(layer)]
        source = arguments(layer)[operands[0]]
        if source not in known or not may_share:
            known[source] = _through_codes(program, source, layer)
        set_argument(layer, operands[0], known[source])
        set_argument(layer, operands[1], stored[layer])


def _through_codes(program: Program, source: fx.Node, before: fx.Node) -> fx.Node:
    """Quantize a value to uint8 over its range and back, in front of its first reader."""
    ops, call = torch.ops.quantized_decomposed, program.graph.call_function
    form = (0, 255, torch.uint8)
    with program.graph.inserting_before(before):
        range_ = call(ops.choose_qparams.tensor, (source, 0, 255, _SMALLEST, torch.uint8))
        scale, zero = call(operator.getitem, (range_, 0)), call(operator.getitem, (range_, 1))
        integers = call(ops.quantize_per_tensor.tensor, (source, scale, zero, *form))
        real = call(ops.dequantize_per_tensor.tensor, (integers, scale, zero, *form))
    for node in (range_, scale, zero, integers, real):
        node.meta["stack_trace"] = before.meta.get("stack_trace")
    return real
