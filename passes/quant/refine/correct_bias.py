"""Bias correction: move a layer's bias by the mean error that the quantization of its weight and input brings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import fx

from fxopt.ops import arguments
from fxopt.passes.quant.encode import BIAS_LIMITS, LayerCodes, encode_bias
from fxopt.passes.quant.refine.twins import Twins


def empirical_bias(twins: Twins, layer: fx.Node) -> torch.Tensor:
    """Bias float64 ``[out]`` with which the quantized layer has the mean outputs of the float one, before its activation.

    b̃ + E[y] - E[ỹ] over the calibration data (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and
    Bias Correction", section 4.2; Finkelstein et al. 2019, "Fighting Quantization Bias With Bias"). ỹ is
    what the layer gives behind layers that are quantized and corrected already, so one sweep in graph order corrects all.
    """
    bias = twins.codes[layer].bias
    start = torch.zeros(1) if bias is None else bias.real()
    wanted, given = zip(*twins.values(layer), strict=True)
    dims = twins.codes[layer].weight.integers.dim()
    return start.double() + _mean(wanted, dims) - _mean(given, dims)


def analytic_bias(twins: Twins, layer: fx.Node, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Bias float64 ``[out]`` that makes up for the rounding of the weight alone: b - (W̃ - W)·E[x].

    x is what the float layer reads, so layers do not depend on one another (Nagel et al. 2019, eq. 17 and 18; there E[x]
    comes from batch norm's statistics, here from the calibration data). For a convolution the sum over the kernel counts
    the padding as the zeros that it is, where eq. 18 takes every position for an inner one.
    """
    error = twins.codes[layer].weight.real().double() - weight.detach().double()
    call = fx.node.map_arg(arguments(layer), lambda _: None) | {"weight": error}
    moved = []
    for x, _ in twins.read(layer):
        batch = x.double() if x.dim() >= weight.dim() else x.double()[None]
        one = layer.target(**call | {"input": batch.mean(0, keepdim=True)})  # type: ignore[operator]
        moved.append(one.expand(len(batch), *one.shape[1:]))
    return (0.0 if bias is None else bias.detach().double()) - _mean(moved, weight.dim())


def with_bias(codes: LayerCodes, name: str, bias: torch.Tensor, input_scale: float) -> LayerCodes | str:
    """The layer's codes with ``bias``, called ``name`` where there was none before, or the reason why it cannot be."""
    if bool((bias.abs() / (codes.weight.scales.double() * input_scale) > BIAS_LIMITS[1]).any()):
        return "the corrected bias does not fit 32 bits at the scale of the products"
    return replace(
        codes, bias=encode_bias(codes.bias.name if codes.bias else name, bias, codes.weight.scales, input_scale)
    )


def _mean(values: Iterable[torch.Tensor], weight_dims: int) -> torch.Tensor:
    """Mean per output channel over the batches and all positions, float64."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for value in values:
        channel = value.dim() - weight_dims + 1
        total = total + value.double().sum([dim for dim in range(value.dim()) if dim != channel])
        count += value.numel() // value.shape[channel]
    return total / count
