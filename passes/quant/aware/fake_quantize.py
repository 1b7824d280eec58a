"""Fake quantization: the values of a Q/DQ pair, with gradients for input and step size."""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch

from fxopt.passes.quant.weights import quantize_bias

importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the ops


@torch.library.custom_op("fxopt::fake_quantize", mutates_args=())
def fake_quantize(x: torch.Tensor, log_scale: torch.Tensor, zero_point: int, low: int, high: int) -> torch.Tensor:
    """``x`` quantized and dequantized: bit for bit the result of a Q/DQ pair at scale exp(``log_scale``).

    ``log_scale`` is a scalar, or has one element for each index of the first dim of ``x``; integers lie in ``low`` …
    ``high``. The step is learned by its logarithm, so that an optimizer changes it in proportion (Jain et al. 2020,
    "Trained quantization thresholds", section 3.2).
    """
    ops, scale = torch.ops.quantized_decomposed, log_scale.exp()
    if scale.dim() == 0:
        dtype = torch.uint8 if low >= 0 else torch.int8
        code = (float(scale), zero_point, low, high, dtype)
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *code), *code)
    shape = [-1] + [1] * (x.dim() - 1)
    codes = torch.round(x.double() / scale.double().reshape(shape)).clamp(low, high).to(torch.int32)
    return codes.float() * scale.reshape(shape)


@fake_quantize.register_fake
def _(x: torch.Tensor, log_scale: torch.Tensor, zero_point: int, low: int, high: int) -> torch.Tensor:
    return torch.empty_like(x)


def _remember(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
    x, log_scale, ctx.zero_point, ctx.low, ctx.high = inputs
    ctx.save_for_backward(x, log_scale)


def _backward(ctx: Any, gradient: torch.Tensor) -> Any:
    """Straight through inside the range (Bengio et al. 2013); for the step LSQ's (Esser et al. 2020, eq. 3 and section 2.2)."""
    x, log_scale = ctx.saved_tensors
    scale = log_scale.exp().reshape([-1] + [1] * (x.dim() - 1)) if log_scale.dim() else log_scale.exp()
    low, high = ctx.low - ctx.zero_point, ctx.high - ctx.zero_point
    steps = x / scale
    inside = (steps >= low) & (steps <= high)
    by_step = torch.where(inside, steps.round() - steps, steps.clamp(low, high))
    others = list(range(1, x.dim())) if log_scale.dim() else list(range(x.dim()))
    count = x.numel() / max(1, log_scale.numel())
    by_scale = (gradient * by_step).sum(others) / math.sqrt(count * max(abs(low), abs(high)))
    return gradient * inside, (by_scale * log_scale.exp()).reshape(log_scale.shape), None, None, None


fake_quantize.register_autograd(_backward, setup_context=_remember)


@torch.library.custom_op("fxopt::fake_quantize_bias", mutates_args=())
def fake_quantize_bias(bias: torch.Tensor, log_input: torch.Tensor, log_weight: torch.Tensor) -> torch.Tensor:
    """``bias`` [out] quantized to int32 at the scale of the products of input and weight, and dequantized; straight through."""
    both = (log_weight.exp().double() * float(log_input.exp())).float()
    return quantize_bias(bias, both).float() * both


@fake_quantize_bias.register_fake
def _(bias: torch.Tensor, log_input: torch.Tensor, log_weight: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(bias)


def _straight_through(ctx: Any, gradient: torch.Tensor) -> Any:
    return gradient, None, None


fake_quantize_bias.register_autograd(_straight_through, setup_context=lambda ctx, inputs, output: None)
