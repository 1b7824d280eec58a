"""Insert calibrated quantize and dequantize ops."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import fx

from fxopt import Program, graph_pass
from fxopt.errors import DataError
from fxopt.ops import arguments, family, set_argument
from fxopt.passes.quant.calibrate import calibrate
from fxopt.passes.quant.observers import Affine
from fxopt.passes.quant.placement import Placement, place
from fxopt.passes.quant.weights import quantize_bias, quantize_weight, weight_scales, widen_for_bias
from fxopt.qdq import Policy
from fxopt.target import host


@graph_pass(kind="approx")
def insert_qdq(program: Program, *, images: Annotated[int, Ge(1)] = 64, keep_float: tuple[str, ...] = ()) -> None:
    """Insert calibrated quantize/dequantize ops, and store weights as int8 and biases as int32.

    ``images`` training examples of the workload are run through the graph to see the range of each activation. What is
    quantized is the backend's policy for the target: activations uint8 per tensor, weights symmetric int8 per output
    channel, biases int32 at activation scale times weight scale. ``keep_float`` names weights or modules, with
    wildcards, that stay in float. Raises DataError without usable data, PassError for a program that is quantized.

    before:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[4,8]
        %y = aten.linear(%x, %w)
        return %y
    after:
        %x : f32[2,8]
        %q = quantized_decomposed.quantize_per_tensor(%x, 1.0, 0, 0, 255, u8)
        %d = quantized_decomposed.dequantize_per_tensor(%q, 1.0, 0, 0, 255, u8)
        %w = param "fc.weight_int8" : i8[4,8]
        %s = param "fc.weight_scale" : f32[4]
        %z = param "fc.weight_zero_point" : i8[4]
        %v = quantized_decomposed.dequantize_per_channel(%w, %s, %z, 0, -127, 127, i8)
        %y = aten.linear(%d, %v)
        return %y
    """
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the ops
    quantized = next((n for n in program.graph.nodes if family(n) == "quant"), None)
    if quantized is not None:
        raise program.fail(quantized, "the program is quantized already; quantize once, after all other passes")
    context = program.context
    if context.workload is None:
        raise DataError("insert_qdq needs calibration data: run the pipeline with workload=…")
    target = context.target or host()
    policy = context.backend.quant_policy(target) if context.backend else Policy()
    placement = place(program, policy, keep_float)
    if not placement.layers:
        return  # each layer that might have been has its reason
    owners = dict.fromkeys(placement.values.values())
    observers = calibrate(program, context.workload.calibration(images, "quantize"), owners)
    ranges = {node: observers[owner].affine() for node, owner in placement.values.items()}
    stored: dict[Any, fx.Node] = {}
    for layer in placement.layers:
        _quantize_layer(program, layer, ranges[layer.args[0]].scale, policy, stored)  # type: ignore[index]
    for node, affine in ranges.items():
        _quantize_value(program, node, affine, placement)


def _quantize_value(program: Program, node: fx.Node, affine: Affine, placement: Placement) -> None:
    ops = torch.ops.quantized_decomposed
    readers = [u for u in node.users if node in placement.whole or u in placement.readers]
    code = (affine.scale, affine.zero_point, 0, 255, torch.uint8)
    with program.graph.inserting_after(program.inputs()[-1] if node.op == "placeholder" else node):
        quantized = program.graph.call_function(ops.quantize_per_tensor.default, (node, *code))
    quantized.meta["stack_trace"] = node.meta.get("stack_trace")
    real = program.call(ops.dequantize_per_tensor.default, quantized, *code, like=quantized)
    for reader in readers:
        reader.replace_input_with(node, real)


def _quantize_layer(
    program: Program, layer: fx.Node, input_scale: float, policy: Policy, stored: dict[Any, fx.Node]
) -> None:
    call = arguments(layer)
    weight, bias = program.tensor(call["weight"]), program.tensor(call["bias"])
    assert weight is not None
    depthwise = weight.dim() > 2 and weight.shape[1] == 1
    scales = weight_scales(weight, None if depthwise else policy.pair_sum)
    if bias is not None:
        scales = widen_for_bias(scales, bias, input_scale)
    name = str(call["weight"].target)
    key = (id(weight), scales.numpy().tobytes())
    real = stored.get(key)
    if real is None or not real < layer:
        real = _dequantized(program, name, quantize_weight(weight, scales), scales, (-127, 127), layer)
        stored[key] = real
    set_argument(layer, "weight", real)
    if bias is not None:
        both = (scales.double() * input_scale).float()
        limits = (-(2**31) + 1, 2**31 - 1)
        path = str(call["bias"].target)
        set_argument(layer, "bias", _dequantized(program, path, quantize_bias(bias, both), both, limits, layer))


def _dequantized(
    program: Program, name: str, codes: torch.Tensor, scales: torch.Tensor, limits: tuple[int, int], before: fx.Node
) -> fx.Node:
    """Store codes with their scales and return the node that gives the real numbers back."""
    kind = str(codes.dtype).removeprefix("torch.")
    parts = [
        program.add_tensor(f"{name}_{kind}", codes, before),
        program.add_tensor(f"{name}_scale", scales, before),
        program.add_tensor(f"{name}_zero_point", torch.zeros(len(scales), dtype=codes.dtype), before),
    ]
    with program.graph.inserting_before(before):
        target = torch.ops.quantized_decomposed.dequantize_per_channel.default
        node = program.graph.call_function(target, (*parts, 0, *limits, codes.dtype))
    node.meta["stack_trace"] = before.meta.get("stack_trace")
    return node
