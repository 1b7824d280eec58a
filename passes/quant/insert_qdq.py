"""Insert calibrated quantize and dequantize ops."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge

from fxopt import Program, graph_pass
from fxopt.errors import DataError
from fxopt.ops import family
from fxopt.passes.quant.calibrate import calibrate
from fxopt.passes.quant.emit import emit_layers, emit_value
from fxopt.passes.quant.encode import encode_layers
from fxopt.passes.quant.placement import place
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
    codes = encode_layers(program, placement.layers, ranges, policy)
    for node, affine in ranges.items():
        emit_value(program, node, affine, placement)
    emit_layers(program, codes)
