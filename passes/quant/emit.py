"""Emit a quantization into the graph: quantize and dequantize ops, and stored integers."""

from __future__ import annotations

import importlib

import torch
from torch import fx

from fxopt import Program
from fxopt.ir.op_table import set_argument
from fxopt.passes.quant.encode import Codes, LayerCodes
from fxopt.passes.quant.observers import Affine
from fxopt.passes.quant.placement import Placement

importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the ops


def emit(
    program: Program,
    placement: Placement,
    ranges: dict[fx.Node, Affine],
    codes: dict[fx.Node, LayerCodes],
) -> None:
    """Emit the Q/DQ pairs and quantized weights of a placement into the graph."""
    for node, affine in ranges.items():
        _emit_value(program, node, affine, placement)
    _emit_layers(program, codes)


def _emit_value(program: Program, node: fx.Node, affine: Affine, placement: Placement) -> None:
    """Let the readers of a value that the placement names read it through a Q/DQ pair."""
    ops = torch.ops.quantized_decomposed
    readers = [u for u in node.users if placement.quantizes(node, u)]
    code = (affine.scale, affine.zero_point, *affine.form.limits, affine.form.dtype)
    with program.graph.inserting_after(program.inputs()[-1] if node.op == "placeholder" else node):
        quantized = program.graph.call_function(ops.quantize_per_tensor.default, (node, *code))
    quantized.meta["stack_trace"] = node.meta.get("stack_trace")
    real = program.call(ops.dequantize_per_tensor.default, quantized, *code, like=quantized)
    for reader in readers:
        reader.replace_input_with(node, real)


def _emit_layers(program: Program, codes: dict[fx.Node, LayerCodes]) -> None:
    """Let every layer read its weight and bias dequantized; layers that share a quantized weight share the node."""
    stored: dict[int, fx.Node] = {}
    for layer, found in codes.items():
        real = stored.get(id(found.weight))
        if real is None or not real < layer:
            real = stored[id(found.weight)] = dequantized(program, found.weight, layer)
        set_argument(layer, "weight", real)
        if found.bias is not None:
            set_argument(layer, "bias", dequantized(program, found.bias, layer))


def dequantized(program: Program, codes: Codes, before: fx.Node) -> fx.Node:
    """Store a quantized tensor and return the node that dequantizes it.

    Its scales are stored too; those of one without an axis are all the same, a constant in the graph.
    """
    integers, scales, axis, ops = codes.integers, codes.scales, codes.axis, torch.ops.quantized_decomposed
    kind = str(integers.dtype).removeprefix("torch.")
    form: list[fx.Node | float] = [program.add_tensor(f"{codes.name}_{kind}", integers, before)]
    if axis is None:
        target = ops.dequantize_per_tensor.default
        form += [scales[0].item(), 0]
    else:
        target, zeros = ops.dequantize_per_channel.default, torch.zeros(len(scales), dtype=integers.dtype)
        form += [
            program.add_tensor(f"{codes.name}_scale", scales, before),
            program.add_tensor(f"{codes.name}_zero_point", zeros, before),
            axis,
        ]
    with program.graph.inserting_before(before):
        node = program.graph.call_function(target, (*form, *codes.limits, integers.dtype))
    node.meta["stack_trace"] = before.meta.get("stack_trace")
    return node
