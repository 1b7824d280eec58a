"""Float64 twins of the quantize and dequantize ops, under the names of the originals.

``quantized_decomposed`` ops assert float32. In the float64 replay of a program they are replaced by these, which
compute the same formula, ``q = clamp(round(x / s) + z, lo, hi)`` and ``x = (q - z) · s``, in the width of their input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def _along(values: torch.Tensor, like: torch.Tensor, axis: int) -> torch.Tensor:
    shape = [1] * like.dim()
    shape[axis] = -1
    return values.reshape(shape)


def choose_qparams(
    x: torch.Tensor, lo: int, hi: int, eps: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale float64 [1], ``eps`` or more, and zero point int64 [1] over the range of ``x`` and zero."""
    low, high = (bound.reshape(1).to(torch.float64) for bound in torch.aminmax(x))
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = ((high - low) / (hi - lo)).clamp(min=eps)
    return scale, (lo - torch.round(low / scale)).clamp(lo, hi).to(torch.int64)


def choose_qparams_per_token_asymmetric(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale float64 and zero point int64 [..., 1] over the range of each row of ``x`` and zero, for int8.

    The zero point is that of the end of the range whose own would be rounded less, as XNNPACK chooses it.
    """
    low, high = x.amin(-1, keepdim=True).clamp(max=0.0), x.amax(-1, keepdim=True).clamp(min=0.0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
    below, above = -128 - low / scale, 127 - high / scale
    zero_point = torch.where(below + above < -2, below, above)
    return scale, zero_point.clamp(-128, 127).round().to(torch.int64)


def quantize_per_token(
    x: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, lo: int, hi: int, dtype: torch.dtype
) -> torch.Tensor:
    """Quantize with a scale for each row; ties are those of the sum with the zero point, as in the real op."""
    return (x / scales + zero_points).round().clamp(lo, hi).to(dtype)


def dequantize_per_token(
    q: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, lo: int, hi: int, dtype: torch.dtype,
    output_dtype: torch.dtype = torch.float64,
) -> torch.Tensor:  # fmt: skip
    """Dequantize with a scale for each row to float64."""
    return (q - zero_points).to(torch.float64) * scales


def quantize_per_tensor(
    x: torch.Tensor, scale: float | torch.Tensor, zero_point: int | torch.Tensor, lo: int, hi: int, dtype: torch.dtype
) -> torch.Tensor:
    """Quantize with one scale; the scale is rounded to float32, as the real op and every runtime store it."""
    scale = float(torch.as_tensor(scale, dtype=torch.float32))
    return (torch.round(x / scale) + zero_point).clamp(lo, hi).to(dtype)


def dequantize_per_tensor(
    q: torch.Tensor, scale: float | torch.Tensor, zero_point: int | torch.Tensor, lo: int, hi: int, dtype: torch.dtype,
    **_: Any,
) -> torch.Tensor:  # fmt: skip
    """Dequantize with one scale to float64."""
    return (q.to(torch.float64) - zero_point) * float(torch.as_tensor(scale, dtype=torch.float32))


def quantize_per_channel(
    x: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, axis: int, lo: int, hi: int, dtype: torch.dtype
) -> torch.Tensor:
    """Quantize with a scale for each index of ``axis``."""
    return (torch.round(x / _along(scales, x, axis)) + _along(zero_points, x, axis)).clamp(lo, hi).to(dtype)


def dequantize_per_channel(
    q: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor | None, axis: int, lo: int, hi: int,
    dtype: torch.dtype, **_: Any,
) -> torch.Tensor:  # fmt: skip
    """Dequantize with a scale for each index of ``axis`` to float64."""
    shift = 0 if zero_points is None else _along(zero_points, q, axis)
    return (q.to(torch.float64) - shift) * _along(scales.to(torch.float64), q, axis)


def dequantize_per_channel_group(
    q: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor | None, lo: int, hi: int, dtype: torch.dtype,
    group_size: int, output_dtype: torch.dtype = torch.float64,
) -> torch.Tensor:  # fmt: skip
    """Dequantize a matrix to float64 with a scale for each ``group_size`` neighbours of a row."""
    shift = 0 if zero_points is None else zero_points.reshape(-1, 1)
    groups = q.to(torch.float64).reshape(-1, group_size) - shift
    return (groups * scales.to(torch.float64).reshape(-1, 1)).reshape(q.shape)


_TWINS = {
    f.__name__: f
    for f in (
        choose_qparams, choose_qparams_per_token_asymmetric, quantize_per_tensor, dequantize_per_tensor,
        quantize_per_channel, dequantize_per_channel, dequantize_per_channel_group, quantize_per_token, dequantize_per_token,
    )
}  # fmt: skip


def wide_twin(target: Any) -> Callable[..., Any]:
    """The float64 twin of a ``quantized_decomposed`` op; the op itself if there is none."""
    name = str(target).removeprefix("quantized_decomposed.").removesuffix(".default").removesuffix(".tensor")
    return _TWINS.get(name, target)
