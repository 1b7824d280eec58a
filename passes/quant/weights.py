"""Weights and biases as integers, with a scale for each output channel."""

from __future__ import annotations

import torch


def weight_scales(weight: torch.Tensor, pair_sum: int | None) -> torch.Tensor:
    """Symmetric scales float32 [out] of ``weight`` [out, ...] such that codes lie in -127 … 127.

    ``pair_sum`` bounds the sum of any two codes of one sign in a channel: kernels that add two products u8 · s8 in 16
    bits saturate above 32767 = 255 · 128.5. Instead of giving every weight 7 bits, a channel's scale grows only as far
    as its two largest weights of one sign ask for. A channel of zeros gets the median scale of the others.
    """
    rows = weight.detach().double().flatten(1)
    scales = rows.abs().amax(1) / 127
    if pair_sum is not None and rows.shape[1] > 1:
        top = rows.topk(2, dim=1).values.clamp(min=0).sum(1)
        bottom = (-rows).topk(2, dim=1).values.clamp(min=0).sum(1)
        # rounding may add half a code to each of the two
        scales = torch.maximum(scales, torch.maximum(top, bottom) / (pair_sum - 1))
    used = scales[scales > 0]
    fallback = used.median().item() if len(used) else 1.0 / 127
    return torch.where(scales > 0, scales, fallback).float()


def widen_for_bias(scales: torch.Tensor, bias: torch.Tensor, input_scale: float) -> torch.Tensor:
    """Scales large enough for ``bias`` to fit 31 bits at scale ``input_scale · scales``."""
    return torch.maximum(scales, (bias.detach().double().abs() / (input_scale * 2**30)).float())


def quantize_weight(weight: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """int8 codes of ``weight`` [out, ...]: round(w / s), clamped to -127 … 127."""
    shape = [-1] + [1] * (weight.dim() - 1)
    return torch.round(weight.detach().double() / scales.double().reshape(shape)).clamp(-127, 127).to(torch.int8)


def quantize_bias(bias: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """int32 codes of ``bias`` [out] at float32 ``scales`` [out] (Jacob et al. 2018, eq. 11)."""
    return torch.round(bias.detach().double() / scales.double()).clamp(-(2**31) + 1, 2**31 - 1).to(torch.int32)
