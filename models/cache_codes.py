"""Keys and values of a cache in int8, with a scale for each token of each head."""

from __future__ import annotations

import torch

Coded = tuple[torch.Tensor, torch.Tensor]
"""int8 [batch, heads, tokens, head dim], and float scales [batch, heads, tokens, 1]."""
_LARGEST = 127


def to_codes(values: torch.Tensor) -> Coded:
    """Values float [batch, heads, tokens, head dim], each off by half a scale at most: the largest of a token becomes ±127."""
    scales = (values.abs().amax(-1, keepdim=True) / _LARGEST).clamp_min(torch.finfo(values.dtype).tiny)
    return torch.round(values / scales).to(torch.int8), scales


def from_codes(coded: Coded) -> torch.Tensor:
    """The values, in the dtype of the scales."""
    codes, scales = coded
    return codes.to(scales.dtype) * scales


def joined(past: Coded, new: Coded) -> Coded:
    """The tokens of both, one after the other."""
    return torch.cat([past[0], new[0]], 2), torch.cat([past[1], new[1]], 2)
