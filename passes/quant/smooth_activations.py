"""Smooth activations: move the spread between channels from the inputs of linear layers into their weights."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_doc import Doc
from annotated_types import Ge, Le
from torch import fx

from fxopt import Context, Program, graph_pass
from fxopt.errors import DataError
from fxopt.passes.quant.smoothing.factors import SMOOTH, Factors
from fxopt.passes.quant.smoothing.peaks import channel_peaks
from fxopt.passes.quant.smoothing.sweep import readable_weight, sweep
from fxopt.workload import Workload


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
    readers: dict[fx.Node, fx.Node] = {}
    needs = sweep(program)
    for linear in program.find("aten.linear"):
        weight = readable_weight(program, linear)
        if weight is None:
            program.skip(linear, "its weight is computed, not stored")
        else:
            readers[linear] = needs.first(weight)
    factors = Factors.unsolved(needs)
    open_ = {n: w for n, w in readers.items() if factors.left(w).total() < len(needs.columns[w])}
    if open_:
        _solve(program, context.workload, factors, open_, alpha, images)
    for linear, weight in readers.items():
        _explain(program, linear, factors.left(weight), len(needs.columns[weight]))


def _solve(
    program: Program,
    workload: Workload | None,
    factors: Factors,
    readers: dict[fx.Node, fx.Node],
    alpha: float,
    images: int,
) -> None:
    """Compute the factors of the columns that may have one, and change the weights."""
    if workload is None:
        raise DataError("smooth_activations needs calibration data: run the pipeline with workload=…")
    sources = {linear: linear.all_input_nodes[0] for linear in readers}
    batches = workload.calibration(images, "smooth_activations")
    seen = channel_peaks(program, batches, dict.fromkeys(sources.values()))
    peaks: dict[fx.Node, torch.Tensor] = {}
    for linear, weight in readers.items():
        peak = seen[sources[linear]]
        peaks[weight] = torch.maximum(peaks.get(weight, peak), peak)
    factors.solve(list(peaks), peaks, alpha)
    changed = factors.tensors()
    beyond = [weight for weight, tensor in changed.items() if not bool(tensor.isfinite().all())]
    for weight in beyond:
        program.skip(weight, f"smoothed, it would be beyond the range of {changed[weight].dtype}; nothing is changed")
    if beyond:
        return
    program.set_tensors({str(weight.target): tensor for weight, tensor in changed.items()})
    for linear, weight in readers.items():
        if factors.needs.read_as_it_is(weight):
            program.claims[linear.name] = (linear.name, {})


def _explain(program: Program, linear: fx.Node, left: dict[str, int], channels: int) -> None:
    for reason, count in left.items():
        if reason == SMOOTH and count < channels:
            continue
        program.skip(linear, reason if count == channels else f"{count} of its {channels} input channels: {reason}")
