"""Weights and biases as integers, with a scale for each output channel."""

from __future__ import annotations

import torch


def weight_scales(weight: torch.Tensor, pair_sum: int | None, bits: int = 8) -> torch.Tensor:
    """Symmetric scales float32 [out] of ``weight`` [out, ...] such that codes of 8 ``bits`` lie in -127 … 127.

    ``pair_sum`` bounds the sum of two neighbouring codes of a channel: kernels that add the products u8 · s8 of two
    neighbours in 16 bits saturate above 32767, and 255 · 128 is just below. Instead of giving every weight 7 bits, a
    channel's scale grows only as far as its heaviest neighbours ask for. Neighbours are taken along the sum's order with
    channels first and with channels last, as kernels pack either. A channel of zeros gets the others' median scale.
    """
    rows = weight.detach().double()
    scales = rows.flatten(1).abs().amax(1) / largest_code(bits)
    if pair_sum is not None:
        # rounding to the nearest may add half a code to each of the two
        scales = torch.maximum(scales, _heaviest_pairs(rows) / (pair_sum - 1))
    used = scales[scales > 0]
    fallback = used.median().item() if len(used) else 1.0 / largest_code(bits)
    return torch.where(scales > 0, scales, fallback).float()


def widen_for_bias(scales: torch.Tensor, bias: torch.Tensor, input_scale: float) -> torch.Tensor:
    """Scales large enough for ``bias`` to fit 31 bits at scale ``input_scale · scales``."""
    return torch.maximum(scales, (bias.detach().double().abs() / (input_scale * 2**30)).float())


def quantize_weight(weight: torch.Tensor, scales: torch.Tensor, bits: int = 8) -> torch.Tensor:
    """Codes of ``weight`` [out, ...], stored as int8: round(w / s), clamped to -127 … 127 for 8 ``bits``."""
    shape, largest = [-1] + [1] * (weight.dim() - 1), largest_code(bits)
    return (
        torch.round(weight.detach().double() / scales.double().reshape(shape)).clamp(-largest, largest).to(torch.int8)
    )


def largest_code(bits: int) -> int:
    """The largest of symmetric codes: 127 of 8 bits, 7 of 4."""
    return 2 ** (bits - 1) - 1


def within_pair_sum(codes: torch.Tensor, pair_sum: int) -> torch.Tensor:
    """Bool [out]: channels of ``codes`` [out, ...] no two neighbours of which add up to more than ``pair_sum``."""
    return _heaviest_pairs(codes.double()) <= pair_sum


def _heaviest_pairs(rows: torch.Tensor) -> torch.Tensor:
    """The largest magnitude [out] that two neighbours of ``rows`` [out, ...] add up to; 0 where there is no pair."""
    found = torch.zeros(len(rows), dtype=rows.dtype)
    for order in (rows.flatten(1), rows.movedim(1, -1).flatten(1)):
        if order.shape[1] > 1:
            found = torch.maximum(found, (order[:, 1:] + order[:, :-1]).abs().amax(1))
    return found


def quantize_bias(bias: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """int32 codes of ``bias`` [out] at float32 ``scales`` [out] (Jacob et al. 2018, eq. 11)."""
    return torch.round(bias.detach().double() / scales.double()).clamp(-(2**31) + 1, 2**31 - 1).to(torch.int32)
