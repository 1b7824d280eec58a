"""Insert calibrated quantize and dequantize ops."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from annotated_types import Ge

from fxopt import Program, graph_pass
from fxopt.errors import DataError
from fxopt.ops import find_quantized
from fxopt.passes.quant.decide import decide, policy_of
from fxopt.passes.quant.emit import emit
from fxopt.passes.quant.encode import encode_layers
from fxopt.passes.quant.mixed.choose import Leave, QuantBudget, left_in_float
from fxopt.passes.quant.mixed.trials import Trials
from fxopt.passes.quant.observers import Calibration
from fxopt.passes.quant.placement import place
from fxopt.passes.quant.refine.refine import refine
from fxopt.qdq import Activations


@graph_pass(kind="approx")
def insert_qdq(
    program: Program,
    *,
    images: Annotated[int, Ge(1)] = 64,
    activations: Activations = "uint8",
    per_channel: bool = True,
    calibration: Calibration = "min_max",
    keep_float: tuple[str, ...] = (),
    rounding: Literal["nearest", "adaround"] = "nearest",
    correct_bias: Literal["none", "empirical", "analytic"] = "none",
    metric_drop: Annotated[float, Ge(0)] | None = None,
    sqnr_db: float | None = None,
    leave: Leave = "greedy",
) -> None:
    """Insert calibrated quantize/dequantize ops, and store weights as int8 and biases as int32.

    ``images`` training examples of the workload are run through the graph to see the range of each activation. What is
    quantized is the backend's policy for the target: activations per tensor, weights symmetric int8 per output
    channel, biases int32 at activation scale times weight scale. ``keep_float`` names weights or modules, with
    wildcards, that stay in float. Raises DataError without usable data, PassError for a program that is quantized.

    ``activations`` other than uint8, and ``per_channel=False``, one scale for all of a weight, are for devices that have
    nothing else; they are not faster in ONNX Runtime or OpenVINO. Signed integers are symmetric, zero point 0. Those of int8
    lose a bit where numbers have one sign; ONNX Runtime computes convolutions on them in float, as its report says. It has
    no integer kernels at all for 16 bits: the artifact shows what accuracy a device will have, not its speed, and the build
    wants onnx(opset=21). OpenVINO refuses them. One scale a weight costs 5 dB or more where channels differ.

    ``calibration`` chooses the range from what the images give; numbers beyond it are clipped, and zero is always in it:

    * ``min_max``: everything seen.
    * ``moving_average``: batch by batch a tenth of the way to the batch's least and largest number (Jacob et al. 2018,
      section 3.1).
    * ``percentile``: from the 0.01th to the 99.99th percentile, so one number in 10 000 is left out at each end.
    * ``mse``: the least mean squared error of clipping and rounding together.
    * ``entropy``: the least Kullback-Leibler divergence of the codes from the numbers (Migacz 2017).

    For ``mse`` and ``entropy`` the most extreme number in a million at each end has no say. These two and
    ``percentile`` count numbers in a histogram of 65536 bins for each activation, whatever the number of images.

    ``rounding``: each weight becomes the ``nearest`` code, or by ``adaround`` the one below or above, as is learned layer
    by layer so that the layer gives for its quantized input what it gave in float (Nagel et al. 2020); a layer for which
    that is no better on examples left out keeps the nearest codes, with the reason. About 15 s on one core for a million
    weights. ``correct_bias``: move biases by the mean error of the outputs, as measured behind
    quantized layers (``empirical``; Nagel et al. 2019, section 4.2), or as the rounding of the weight and the mean input
    make it (``analytic``; eq. 17). A layer without a bias gets one. Both run all images at once, in float and quantized.

    ``metric_drop`` and ``sqnr_db`` are a budget on the validation data: layers stay in float until the metric falls by no
    more, and the outputs keep that signal-to-noise ratio. ``leave`` says which: ``greedy``, as few of the worst as it takes,
    or ``knapsack``, those that cost the least latency as the backend measures it. `fxopt explain quant` shows each layer's
    share.

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
    quantized = find_quantized(program.graph)
    if quantized is not None:
        raise program.fail(quantized, "the program is quantized already; quantize once, after all other passes")
    if program.context.workload is None:
        raise DataError("insert_qdq needs calibration data: run the pipeline with workload=…")
    policy = dataclasses.replace(policy_of(program), activations=activations, per_channel=per_channel)
    placement, ranges = decide(
        program, policy, images=images, calibration=calibration, keep_float=keep_float, who="quantize"
    )
    if not placement.layers:
        return
    if metric_drop is not None or sqnr_db is not None:
        known = {node.name: affine for node, affine in ranges.items()}
        trials = Trials(program, policy, known, "insert_qdq", keep_float)
        left = left_in_float(QuantBudget(metric_drop, sqnr_db), trials, leave, "insert_qdq")
        placement = place(program, policy, keep_float, left)
        for node in (node for node in placement.declined if node.name in left):
            program.skip(node, placement.declined[node])
        ranges = {node: ranges[node] for node in placement.values}
    codes = encode_layers(program, placement.layers, ranges, policy)
    codes = refine(
        program, placement, ranges, codes, policy, rounding=rounding, correct_bias=correct_bias, images=images
    )
    emit(program, placement, ranges, codes, per_channel=per_channel)
