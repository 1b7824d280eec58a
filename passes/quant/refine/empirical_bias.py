"""Empirical bias correction: correct a layer's bias by the measured mean error of quantization."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from fxopt.ir.transfer import take
from fxopt.passes.quant.refine.twins import Twins
from fxopt.passes.quant.refine.with_bias import channel_sum


def empirical_bias(twins: Twins, layer: fx.Node) -> torch.Tensor:
    """Bias float64 ``[out]`` with which the quantized layer has the mean outputs of the float one, before its activation.

    b̃ + E[y] - E[ỹ] over the calibration data (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and
    Bias Correction", section 4.2; Finkelstein et al. 2019, "Fighting Quantization Bias With Bias"). ỹ is the
    output with the layers before it quantized and corrected already, so one sweep in graph order corrects all.
    """
    bias = twins.codes[layer].bias
    start = torch.zeros(1) if bias is None else bias.real()
    wanted, given = zip(*twins.values(layer), strict=True)
    dims = twins.codes[layer].weight.integers.dim()
    return start.double() + take(_mean(wanted, dims) - _mean(given, dims))


def _mean(values: Iterable[torch.Tensor], weight_dims: int) -> torch.Tensor:
    """Mean per output channel over the batches and all positions, float64."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for value in values:
        sums, places = channel_sum(value, weight_dims)
        total, count = total + sums, count + places
    return total / count
