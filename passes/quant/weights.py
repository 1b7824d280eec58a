"""Weights and biases as integers, with a scale for each output channel."""

from __future__ import annotations

import torch

from fxopt.target.int8_pairs import LIMIT, heaviest_pairs


def weight_scales(weight: torch.Tensor, safe_pairs: bool = False, bits: int = 8) -> torch.Tensor:
    """Symmetric scales float32 [out] of ``weight`` [out, in, ...] such that integers of 8 ``bits`` lie in -127 … 127.

    With ``safe_pairs`` they suit kernels that add pairs in 16 bits, see :mod:`fxopt.target.int8_pairs`. Instead of giving
    every weight 7 bits, a channel's scale grows only as far as its heaviest pair needs. A channel of zeros gets the
    others' median scale.
    """
    rows = weight.detach().double()
    scales = rows.flatten(1).abs().amax(1) / largest_code(bits)
    if safe_pairs:
        scales = widen_for_pairs(scales, rows, bits)
    used = scales[scales > 0]
    fallback = used.median().item() if len(used) else 1.0 / largest_code(bits)
    return torch.where(scales > 0, scales, fallback).float()


def widen_for_pairs(scales: torch.Tensor, weight: torch.Tensor, bits: int = 8) -> torch.Tensor:
    """Scales [out] large enough for ``weight`` to suit kernels that add pairs in 16 bits; any do for few ``bits``."""
    if 2 * largest_code(bits) <= LIMIT:
        return scales
    # rounding to nearest may add half a step to each of the two
    heaviest = torch.from_numpy(heaviest_pairs(weight.detach().double().numpy())) / (LIMIT - 1)
    return torch.maximum(scales, heaviest.to(scales.dtype))


def widen_for_bias(scales: torch.Tensor, bias: torch.Tensor, input_scale: float) -> torch.Tensor:
    """Scales large enough for ``bias`` to fit 31 bits at scale ``input_scale · scales``."""
    return torch.maximum(scales, (bias.detach().double().abs() / (input_scale * 2**30)).float())


def quantize_weight(weight: torch.Tensor, scales: torch.Tensor, bits: int = 8) -> torch.Tensor:
    """``weight`` [out, ...] as int8: round(w / s), clamped to -127 … 127 for 8 ``bits``."""
    shape, largest = [-1] + [1] * (weight.dim() - 1), largest_code(bits)
    return (
        torch.round(weight.detach().double() / scales.double().reshape(shape)).clamp(-largest, largest).to(torch.int8)
    )


def largest_code(bits: int) -> int:
    """The largest symmetric integer: 127 of 8 bits, 7 of 4."""
    return 2 ** (bits - 1) - 1


def has_safe_pairs(codes: torch.Tensor) -> torch.Tensor:
    """Bool [out]: channels of a quantized weight ``codes`` [out, in, ...] that suit kernels which add pairs in 16 bits."""
    return torch.from_numpy(heaviest_pairs(codes.numpy()) <= LIMIT)


def quantize_bias(bias: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """``bias`` [out] in int32 at float32 ``scales`` [out] (Jacob et al. 2018, eq. 11)."""
    return torch.round(bias.detach().double() / scales.double()).clamp(-(2**31) + 1, 2**31 - 1).to(torch.int32)
