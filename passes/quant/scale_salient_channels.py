"""Scale salient channels up, so that the rounding of weights costs them less."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_doc import Doc
from annotated_types import Ge

from fxopt import Context, Program, graph_pass
from fxopt.passes.quant.smoothing.absorb import absorb, explain, open_factors, still_open
from fxopt.passes.quant.smoothing.salience import by_salience, input_samples
from fxopt.workload import given_workload


@graph_pass
def scale_salient_channels(
    program: Program,
    context: Context,
    *,
    bits: Annotated[Literal[4, 8], Doc("Bits that quantize_weights will round to.")] = 4,
    block: Annotated[Literal[0, 16, 32, 64, 128, 256], Doc("Its block, the inputs that share a scale.")] = 32,
    images: Annotated[int, Ge(1), Doc("Training examples that the inputs are measured on.")] = 128,
) -> None:
    """Scale input channels of linears by how large they are, so that quantize_weights loses less.

    Activation-aware weight quantization (Lin et al. 2023, AWQ, eq. 4 and 5): a weight whose input is large costs more when it
    is rounded. So the columns of a weight are multiplied by s_j = (mean|X_j|)^alpha before they are rounded, and what is read
    is divided by s_j, which existing weights before absorb, as in smooth_activations: the norm, linear or convolution, through
    ops that commute with a factor. ``alpha``, of 0, 0.05, … 0.95, is for each input the one with the least error of the
    outputs, ‖Q(W · s) · (X / s) - W · X‖², over all linears that read it, rounded to nearest as
    ``quantize_weights(bits=…, block=…)`` would. The factors are divided by the square root of the largest times the smallest.

    Run it before quantize_weights, with its ``bits`` and ``block``; rounding='gptq' may follow as well as 'nearest'. Only weights
    change, and no output. Channels with other readers too, as in a post-norm residual sum, are left, with the reason.
    Raises DataError without usable data or at values that are not finite, PassError for such a weight.

    before:
        %x : f32[2,8]
        %g = param "norm.weight" : f32[8]
        %b = param "norm.bias" : f32[8]
        %y = aten.layer_norm(%x, [8], %g, %b)
        %w = param "fc.weight" : f32[4,8]
        %z = aten.linear(%y, %w)
        return %z
    after:
        %x : f32[2,8]
        %g = param "norm.weight" : f32[8]
        %b = param "norm.bias" : f32[8]
        %y = aten.layer_norm(%x, [8], %g, %b)
        %w = param "fc.weight" : f32[4,8]
        %z = aten.linear(%y, %w)
        return %z
    """
    factors, readers = open_factors(program)
    wanted = still_open(factors, readers)
    if wanted:
        for weight in wanted.values():
            tensor = program.tensor(weight)
            assert tensor is not None
            if not bool(tensor.isfinite().all()):
                raise program.fail(weight, "the weight holds NaN or infinity")
        workload = given_workload(context.workload, "scale_salient_channels", "calibration data")
        batches = workload.calibration(images, "scale_salient_channels")
        samples = input_samples(program, batches, wanted)
        factors.solve(list(dict.fromkeys(wanted.values())), by_salience(factors, samples, bits, block))
        absorb(program, factors, wanted)
    explain(program, factors, readers)
