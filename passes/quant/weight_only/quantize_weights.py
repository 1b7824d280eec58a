"""Quantize weights alone, in blocks."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_doc import Doc
from annotated_types import Ge

from fxopt import Context, Program, graph_pass
from fxopt.passes.common.calibration_batches import calibration_batches
from fxopt.passes.quant.decide import policy_of
from fxopt.passes.quant.dynamic.emit_dynamic import quantize_inputs
from fxopt.passes.quant.float_tables import report_float_tables
from fxopt.passes.quant.weight_only.blocks import Grid, nearest
from fxopt.passes.quant.weight_only.choose_weights import choose_weights
from fxopt.passes.quant.weight_only.emit_blocks import emit_blocks
from fxopt.passes.quant.weight_only.gptq_codes import gptq_codes
from fxopt.support.options import Tune, With


@graph_pass(kind="approx", stage="numeric")
def quantize_weights(
    program: Program,
    context: Context,
    *,
    bits: Annotated[Literal[4, 8], Tune(choices=(4, 8)), Doc("Bits of a weight.")] = 4,
    block: Annotated[
        Literal[0, 16, 32, 64, 128, 256],
        Tune(choices=(32, 128)),
        Doc("Neighbouring inputs of an output that share a scale; 0 for all of them."),
    ] = 32,
    rounding: Annotated[Literal["nearest", "gptq"], Doc("To the nearest, or by GPTQ, which needs data.")] = "nearest",
    images: Annotated[int, Ge(1), With(rounding="gptq"), Doc("Training examples that GPTQ rounds for.")] = 128,
    keep_float: Annotated[tuple[str, ...], Doc("Weights or modules that stay in float, with wildcards.")] = (),
) -> None:
    """Quantize the weights of linears to int4 or int8 with a scale per block; activations stay float.

    ``block`` neighbouring inputs of an output share a float32 scale; 0 is a scale for each output. A shorter row is one
    block, and an incomplete last block of a row is padded with zeros. There is no zero point; scales may be negative, so
    that the largest weight of a block always becomes -8 (or -128).

    ``rounding='nearest'`` needs no data. ``'gptq'`` runs ``images`` training examples of the workload through the graph
    and rounds so that each layer's output changes little on them (Frantar et al. 2023, algorithm 1). It costs one run of
    the model, and a Cholesky factor of [in, in] a layer.

    Quantized are linears, and products with a stored matrix on the right. A weight that something else reads too, such as
    an embedding, stays, as it would be stored twice; so does one that is quantized already: after
    ``quantize(keep_float=…)`` the layers left in float are quantized here. Integers are int8 tensors in the program; a
    backend packs them. ONNX Runtime multiplies by 4-bit integers directly; 8-bit ones make the file small, and it
    dequantizes them on loading. XNNPACK, of ExecuTorch, has kernels for 4 bits and blocks of 32 and more, which quantize
    their inputs to int8 for each token; for it this pass does the same, and gives blocks positive scales of bfloat16.
    ``keep_float`` names weights or modules, with wildcards, that stay in float.
    Raises DataError without usable data for gptq, PassError for a weight that is not finite, or where all is quantized.

    before:
        %x : f32[2,64]
        %w = param "fc.weight" : f32[4,64]
        %y = aten.linear(%x, %w)
        return %y
    after:
        %x : f32[2,64]
        %w = param "fc.weight_int4" : i8[4,64]
        %s = param "fc.weight_scale" : f32[4,2]
        %d = quantized_decomposed.dequantize_per_channel_group(%w, %s, None, -8, 7, i8, 32, f32)
        %y = aten.linear(%x, %d)
        return %y
    """
    report_float_tables(program)
    weights = choose_weights(program, keep_float)
    if not weights:
        return  # each layer has its reason
    policy = policy_of(context)
    grids = [Grid.of(bits, block, weight.rows().shape[1], policy.block_scales) for weight in weights]
    if rounding == "gptq":
        batches = list(calibration_batches(program, context.workload, images, "quantize_weights"))
        codes = gptq_codes(program, weights, grids, batches, context.device)
    else:
        codes = [nearest(weight.rows(), grid) for weight, grid in zip(weights, grids, strict=True)]
    for weight, found in zip(weights, codes, strict=True):
        emit_blocks(program, weight, found, f"{weight.name}_int{bits}")
    if policy.block_inputs == "token":
        quantize_inputs(program, {layer for weight in weights for layer in weight.layers}, "token")
