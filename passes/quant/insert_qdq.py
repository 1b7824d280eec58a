"""Insert calibrated quantize and dequantize ops."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from annotated_doc import Doc
from annotated_types import Ge

from fxopt import Context, Program, graph_pass
from fxopt.backend.quant_policy import Activations
from fxopt.passes.quant.decide import Placer, calibrated, check_not_quantized, decide, expose_products, policy_of
from fxopt.passes.quant.emit import emit
from fxopt.passes.quant.encode import encode_layers
from fxopt.passes.quant.float_tables import report_float_tables
from fxopt.passes.quant.mixed.choose import Leave, QuantBudget, left_in_float
from fxopt.passes.quant.mixed.trials import Trials
from fxopt.passes.quant.observers import Calibration
from fxopt.passes.quant.refine.analytic_bias import MeanInputs, correct_analytically
from fxopt.passes.quant.refine.refine import refine
from fxopt.support.options import Tune, With
from fxopt.workload import given_workload


@graph_pass(kind="approx")
def insert_qdq(
    program: Program,
    context: Context,
    *,
    scheme: Annotated[Literal["int8"], Doc("The whole of formats: 8 bits for both sides of each product.")] = "int8",
    images: Annotated[int, Ge(1), Doc("Training examples that are run through the graph to calibrate.")] = 64,
    activations: Annotated[Activations, Doc("Format of activations.")] = "uint8",
    per_channel: Annotated[bool, Doc("A scale for each output channel of a weight, and not one for all of it.")] = True,
    calibration: Annotated[
        Calibration, Tune(choices=("min_max", "percentile", "mse")), Doc("How the range of an activation is found.")
    ] = "min_max",
    keep_float: Annotated[tuple[str, ...], Doc("Weights, modules or nodes that stay in float, with wildcards.")] = (),
    quantizer: Annotated[
        str | None,
        Doc("What decides what is quantized, or makes a PT2E quantizer: module:function or file.py:function."),
    ] = None,
    rounding: Annotated[
        Literal["nearest", "adaround"], Doc("How weights are rounded: to the nearest, or as AdaRound learns it.")
    ] = "nearest",
    correct_bias: Annotated[
        Literal["none", "empirical", "analytic"], Doc("How biases make up for the rounding of weights.")
    ] = "analytic",
    metric_drop: Annotated[
        float, Ge(0), Doc("How much of the metric may be lost; layers stay in float until it holds.")
    ]
    | None = None,
    sqnr_db: Annotated[
        float | None, Doc("Noise of the outputs that is allowed, in dB of SQNR; layers stay in float until it holds.")
    ] = None,
    leave: Annotated[Leave, With(sqnr_db=60.0), Doc("How the layers that stay in float are chosen.")] = "greedy",
) -> None:
    """Insert calibrated quantize/dequantize (Q/DQ) pairs; store weights as int8 and biases as int32.

    ``images`` training examples of the workload are run through the graph to find the range of each activation. The
    backend's policy for the target says which values are quantized: activations per tensor, weights symmetric int8 per
    output channel, biases int32 at activation scale times weight scale (Jacob et al. 2018). Where the backend has integer
    kernels for products of two values, attention is split into them, and both sides are quantized, the right one
    symmetric. ``scheme`` "int8" stands for 8 bits on both sides of each product. ``keep_float`` names weights or modules,
    or products by their node, with wildcards, that stay in float. Raises DataError without usable data, PassError for a
    program that is quantized.

    ``activations`` other than uint8, and ``per_channel=False``, one scale for all of a weight, are for devices that support
    nothing else; they are not faster in ONNX Runtime or OpenVINO. Signed integers are symmetric, zero point 0. int8
    loses a bit where values have one sign; ONNX Runtime computes convolutions on them in float, as its report says. It has
    no integer kernels at all for 16 bits: the artifact shows the accuracy a device will have, not its speed, and the build
    needs onnx(opset=21). OpenVINO refuses them. One scale per weight costs 5 dB or more where channels differ.

    ``calibration`` chooses the range from the observed values; values outside are clipped, and zero is always inside:

    * ``min_max``: everything seen.
    * ``moving_average``: batch by batch a tenth of the way to the batch's minimum and maximum (Jacob et al. 2018,
      section 3.1).
    * ``percentile``: from the 0.01th to the 99.99th percentile, so one value in 10 000 is left out at each end.
    * ``mse``: the least mean squared error of clipping and rounding together.
    * ``entropy``: the least Kullback-Leibler divergence of the quantized distribution (Migacz 2017).

    ``mse`` and ``entropy`` ignore the most extreme value in a million at each end. These two and ``percentile`` count
    values in a histogram of 65536 bins for each activation, whatever the number of images.

    ``rounding``: each weight is rounded to ``nearest``, or by ``adaround`` down or up, as is learned layer by layer so that
    the layer keeps its float output for its quantized input (Nagel et al. 2020); a layer for which that is no better on
    held-out examples is rounded to nearest, with the reason. About 15 s on one core for a million weights.
    ``correct_bias``: correct biases by the mean error of the outputs, computed from the rounding of the weight and the mean
    input (``analytic``; Nagel et al. 2019, eq. 17), or measured after quantized layers (``empirical``; section 4.2). A
    layer without a bias gets one. ``adaround`` and ``empirical`` run all images at once, in float and quantized;
    ``analytic`` adds next to nothing to the time of calibration, and memory does not grow with the images.

    ``quantizer`` replaces the backend's policy: it names a function, ``module:function`` or ``file.py:function``,
    that returns a configured PT2E ``Quantizer`` of torchao or executorch. It annotates a copy of the graph; which values
    are quantized, their formats and the scales they share are as it asks, and annotations that cannot be met are reported.
    Ranges are ``calibration``'s, not those of its observers; biases are int32, even if it leaves them in float.

    ``metric_drop`` and ``sqnr_db`` are a budget on the validation data: layers stay in float until the metric falls by no
    more, and the outputs keep that signal-to-noise ratio. ``leave`` says which: ``greedy``, as few of the worst as needed,
    or ``knapsack``, those with the least measured latency. `fxopt explain quant` shows each layer's share.

    before:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[4,8]
        %b = param "fc.bias" : f32[4]
        %y = aten.linear(%x, %w, %b)
        return %y
    after:
        %x : f32[2,8]
        %q = quantized_decomposed.quantize_per_tensor(%x, 1.0, 0, 0, 255, u8)
        %d = quantized_decomposed.dequantize_per_tensor(%q, 1.0, 0, 0, 255, u8)
        %w = param "fc.weight_int8" : i8[4,8]
        %s = param "fc.weight_scale" : f32[4]
        %z = param "fc.weight_zero_point" : i8[4]
        %v = quantized_decomposed.dequantize_per_channel(%w, %s, %z, 0, -127, 127, i8)
        %b = param "fc.bias_int32" : i32[4]
        %t = param "fc.bias_scale" : f32[4]
        %n = param "fc.bias_zero_point" : i32[4]
        %c = quantized_decomposed.dequantize_per_channel(%b, %t, %n, 0, -2147483647, 2147483647, i32)
        %y = aten.linear(%d, %v, %c)
        return %y
    """
    check_not_quantized(program)
    report_float_tables(program)
    workload = given_workload(context.workload, "insert_qdq", "calibration data")
    policy = dataclasses.replace(policy_of(context), activations=activations, per_channel=per_channel)
    placer = Placer(policy, keep_float, quantizer)
    expose_products(program, placer)
    placement = decide(program, placer)
    if not (placement.layers or placement.products):
        return
    means = MeanInputs(program, placement.layers) if correct_bias == "analytic" else None
    ranges = calibrated(
        program,
        workload,
        placement,
        policy,
        images=images,
        calibration=calibration,
        who="quantize",
        also=means.watching() if means else {},
        device=context.device,
    )
    if metric_drop is not None or sqnr_db is not None:
        known = {node.name: affine for node, affine in ranges.items()}
        trials = Trials(program, context, placer, known, "insert_qdq", means)
        left = left_in_float(QuantBudget(metric_drop, sqnr_db), trials, leave, "insert_qdq")
        placement = placer(program, left)
        for node in (node for node in placement.declined if node.name in left):
            program.skip(node, placement.declined[node])
        ranges = {node: ranges[node] for node in placement.values}
    codes = encode_layers(program, placement.layers, ranges, policy, per_tensor=placement.per_tensor)
    codes = refine(
        program,
        workload,
        placement,
        ranges,
        codes,
        policy,
        rounding=rounding,
        correct_bias=correct_bias,
        images=images,
        device=context.device,
    )
    if means:
        codes = correct_analytically(program, codes, ranges, means)
    emit(program, placement, ranges, codes)
