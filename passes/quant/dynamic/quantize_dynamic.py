"""Dynamic quantization: weights stored in int8, activations quantized at run time."""

from __future__ import annotations

from typing import Annotated

from annotated_doc import Doc

from fxopt import Context, Program, graph_pass
from fxopt.passes.quant.decide import check_not_quantized, policy_of
from fxopt.passes.quant.dynamic.convolution_weights import convolution_weights, quantize_convolutions
from fxopt.passes.quant.dynamic.emit_dynamic import emit_dynamic
from fxopt.passes.quant.dynamic.recurrent_weights import quantize_recurrent, recurrent_layers
from fxopt.passes.quant.encode import int8_codes
from fxopt.passes.quant.float_tables import report_float_tables
from fxopt.passes.quant.weight_only.choose_weights import choose_weights


@graph_pass(kind="approx", stage="numeric")
def quantize_dynamic(
    program: Program,
    context: Context,
    *,
    keep_float: Annotated[tuple[str, ...], Doc("Weights or modules that stay in float, with wildcards.")] = (),
) -> None:
    """Quantize linears and recurrent layers to int8, their inputs at run time; needs no data.

    Weights are symmetric int8 with a scale for each output channel, of the range that the backend's policy for the target
    allows. A layer's input becomes uint8, with one scale and zero point for the whole tensor, computed from its minimum
    and maximum at run time (ONNX's DynamicQuantizeLinear has the same formula). Products are summed in int32; biases and
    everything else stay in float. As the range is that of a batch, an example's result depends a little on the rest of
    its batch. For ExecuTorch it becomes int8 with a scale and zero point for each token, a row of the last dimension, which is
    what XNNPACK's kernels compute; there no example depends on others.

    The matrices of LSTM, GRU and RNN become int8 too, with a scale for each row, and are dequantized in the graph. ONNX
    Runtime has a kernel for LSTM (DynamicQuantizeLSTM), which quantizes the inputs of each step; in other backends, and
    for GRU and RNN, the file is smaller and the arithmetic stays float.

    Weights of convolutions become int8 for ONNX Runtime, with a scale for each output channel, and float again as it loads the
    file: a file as small, in the time of float. It has kernels for convolutions that quantize their input as they run
    (ConvInteger), which take two to four times as long as those in float.

    Good where linears dominate and there is no data: transformers, recurrent heads. With data, quantize fixes the ranges
    beforehand, which is faster, and quantizes convolutions too. Quantized are linears, and products with a stored
    matrix on the right; a weight that something else reads too, such as an embedding, stays. ``keep_float`` names weights
    or modules, with wildcards, that stay in float. Raises PassError for a program that is quantized or a weight that is
    not finite.

    before:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[4,8]
        %y = aten.linear(%x, %w)
        return %y
    after:
        %x : f32[2,8]
        %w = param "fc.weight_int8" : i8[4,8]
        %t = param "fc.weight_scale" : f32[4]
        %o = param "fc.weight_zero_point" : i8[4]
        %v = quantized_decomposed.dequantize_per_channel(%w, %t, %o, 0, -127, 127, i8)
        %p = quantized_decomposed.choose_qparams.tensor(%x, 0, 255, 1e-38, u8)
        %s = getitem(%p, 0)
        %z = getitem(%p, 1)
        %q = quantized_decomposed.quantize_per_tensor.tensor(%x, %s, %z, 0, 255, u8)
        %d = quantized_decomposed.dequantize_per_tensor.tensor(%q, %s, %z, 0, 255, u8)
        %y = aten.linear(%d, %v)
        return %y
    """
    check_not_quantized(program)
    report_float_tables(program)
    policy = policy_of(context)
    convolutions = convolution_weights(program, keep_float) if policy.unpacks_convolutions else []
    otherwise = {reader.layer for weight in convolutions for reader in weight.readers} | set(recurrent_layers(program))
    chosen = {}
    for weight in choose_weights(program, keep_float, otherwise):
        chosen[weight] = int8_codes(weight.name, weight.rows(), safe_pairs=policy.pairs_in_16_bits)
    emit_dynamic(program, chosen, policy.range_of)
    quantize_convolutions(program, convolutions)
    quantize_recurrent(program, keep_float, safe_pairs=policy.pairs_in_16_bits)
