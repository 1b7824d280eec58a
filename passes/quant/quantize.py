"""Post-training quantization: the exact preparation, then Q/DQ insertion."""

from __future__ import annotations

from fxopt import Pass, graph_pass
from fxopt.passes.clean.canonicalize_clamp import canonicalize_clamp
from fxopt.passes.clean.fold_constants import fold_constants
from fxopt.passes.fuse.fold_batch_norm import fold_batch_norm
from fxopt.passes.fuse.mean_to_pool import mean_to_pool
from fxopt.passes.quant.insert_qdq import insert_qdq
from fxopt.passes.quant.split_silu import split_silu

PREPARATION: tuple[Pass, ...] = (
    fold_constants(),
    fold_batch_norm(),
    mean_to_pool(),
    split_silu(),
    canonicalize_clamp(),
)
"""Exact passes that bring a graph into the ops that have integer kernels."""


@graph_pass(options_of=insert_qdq, stage="numeric")
def quantize(insert: Pass) -> tuple[Pass, ...]:
    """Quantize weights and activations to int8 after training, placed for the backend's integer kernels.

    Stands for fold_constants, fold_batch_norm, mean_to_pool, split_silu and canonicalize_clamp, which are exact and bring
    the graph into the ops that have integer kernels, and insert_qdq, which calibrates and quantizes, products of attention
    too where the backend multiplies them in integers; its options are explained there.

    before:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[4,8]
        %b = param "fc.bias" : f32[4]
        %y = aten.linear(%x, %w, %b)
        %z = aten.silu(%y)
        return %z
    after:
        %x : f32[2,8]
        %q = quantized_decomposed.quantize_per_tensor(%x, 1.0, 0, 0, 255, u8)
        %d = quantized_decomposed.dequantize_per_tensor(%q, 1.0, 0, 0, 255, u8)
        %w = param "fc.weight_int8" : i8[4,8]
        %s = param "fc.weight_scale" : f32[4]
        %o = param "fc.weight_zero_point" : i8[4]
        %v = quantized_decomposed.dequantize_per_channel(%w, %s, %o, 0, -127, 127, i8)
        %b = param "fc.bias_int32" : i32[4]
        %t = param "fc.bias_scale" : f32[4]
        %n = param "fc.bias_zero_point" : i32[4]
        %c = quantized_decomposed.dequantize_per_channel(%b, %t, %n, 0, -2147483647, 2147483647, i32)
        %y = aten.linear(%d, %v, %c)
        %g = aten.sigmoid(%y)
        %z = aten.mul.Tensor(%y, %g)
        return %z
    """
    return (*PREPARATION, insert)
