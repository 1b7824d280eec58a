"""Smooth activations: move the spread between channels from the inputs of linear layers into their weights."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_doc import Doc
from annotated_types import Ge, Le
from torch import fx

from fxopt import Context, Program, graph_pass
from fxopt.passes.quant.smoothing.absorb import absorb, explain, open_factors, still_open
from fxopt.passes.quant.smoothing.factors import Factors
from fxopt.passes.quant.smoothing.peaks import channel_peaks
from fxopt.workload import Workload, given_workload


@graph_pass
def smooth_activations(
    program: Program,
    context: Context,
    *,
    alpha: Annotated[
        float, Ge(0), Le(1), Doc("How much of the range moves: 0 leaves all to activations, 1 moves all to weights.")
    ] = 0.5,
    images: Annotated[int, Ge(1), Doc("Training examples on which ranges are measured.")] = 64,
) -> None:
    """Move activation outliers into weights, channel by channel (SmoothQuant).

    A few channels of a transformer's activations are far larger than the rest, and a quantizer with one scale for all
    of them leaves the rest no bits. With s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) for input channel j (SmoothQuant,
    Xiao et al. 2023, eq. 4; X over ``images`` training examples, W over all linears that read the channel), X / s and
    W · s have the same product. The division is absorbed by existing weights: those of the norm, linear or convolution
    before, through ops that commute with a factor, such as relu, a gate's product, attention and its heads. So
    only weights change, and the model is as fast as before. ``alpha`` is the share of the difficulty that moves into
    the weights: 0.5 for most models, up to 0.75 where a few channels are extreme.

    Run it before quantize, and after fold_batch_norm. Channels with other readers too, as in a post-norm
    residual sum, are left; so are channels that are always zero, and factors beyond 1e-5 … 1e5. A factor of several
    channels (of one value head that several query heads share) is computed from the maxima over them. A second run changes
    nothing. Raises DataError without usable data or at values that are not finite, PassError for such a weight.

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
    if wanted := still_open(factors, readers):
        _solve(program, context.workload, factors, wanted, alpha, images)
    explain(program, factors, readers)


def _solve(
    program: Program,
    workload: Workload | None,
    factors: Factors,
    readers: dict[fx.Node, fx.Node],
    alpha: float,
    images: int,
) -> None:
    """Compute the factors of the columns that may have one, and change the weights."""
    workload = given_workload(workload, "smooth_activations", "calibration data")
    sources = {linear: linear.all_input_nodes[0] for linear in readers}
    batches = workload.calibration(images, "smooth_activations")
    seen = channel_peaks(program, batches, dict.fromkeys(sources.values()))
    peaks: dict[fx.Node, torch.Tensor] = {}
    for linear, weight in readers.items():
        peak = seen[sources[linear]]
        peaks[weight] = torch.maximum(peaks.get(weight, peak), peak)
    factors.solve(list(peaks), factors.by_range(peaks, alpha))
    absorb(program, factors, readers)
