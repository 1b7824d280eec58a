"""Metrics of two versions of an output: relative error, signal-to-noise ratio; and whether outputs vary at all."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch

_NOISE = 1e-9
_SPREAD = 1e4
_SAMPLE = 100_000


def relative_error(want: Any, got: Any, like: Any = None) -> float:
    """Largest error of an output, relative to the expected one; inf where shapes, NaNs or infinities differ.

    Floating and complex outputs: the largest ``|want - got| / max(|want|, scale)`` over the elements, with the
    :func:`bulk_scale` of ``like``, which is ``want`` unless given. A complex number counts as two real ones. Integers
    and bools: the share of elements that differ. Equal infinities are equal, and so are two NaNs.
    """
    if not isinstance(want, torch.Tensor) or not isinstance(got, torch.Tensor):
        return 0.0 if want is got or want == got else math.inf
    if want.shape != got.shape:
        return math.inf
    if want.numel() == 0:
        return 0.0
    if is_discrete(want) and is_discrete(got):
        return int(torch.count_nonzero(want != got)) / want.numel()
    scale = bulk_scale(want if like is None else like)
    want, got = _real(want), _real(got)
    errors = (want - got).abs_().div_(want.abs().clamp_(min=scale))
    worst = errors.masked_fill_(_equal(want, got), 0.0).max().item()
    return math.inf if math.isnan(worst) else worst


def clearly_close(want: torch.Tensor, got: torch.Tensor, tolerance: float) -> bool:
    """A quick sufficient check that the :func:`relative_error` of floating tensors is within ``tolerance``.

    The largest difference is compared with the scale of a sample, which is no larger than that of all.
    """
    if want.shape != got.shape or not want.is_floating_point() or not got.is_floating_point() or not want.numel():
        return False
    scale = bulk_scale(want.flatten()[:: 1 + want.numel() // _SAMPLE])
    return torch.dist(want, got, math.inf).item() <= tolerance * scale


def bulk_scale(values: torch.Tensor) -> float:
    """Largest magnitude of the bulk of ``values``, relative to which small elements are compared; 0 where there is none.

    Of the finite magnitudes above 1e-9 let q be the 10 % quantile; the scale is the largest of them that is at most
    1e4·q. A maximum over all would let one fill value, such as the -3e38 of a mask, hide whatever happens to the rest.
    Magnitudes below 1e-9 are rounding errors of zeros; where there is nothing else, the scale is their maximum.
    """
    magnitudes = _real(values).abs().flatten()
    above = _above_noise(
        magnitudes[:: 1 + magnitudes.numel() // _SAMPLE]
    )  # a quantile of many does not need all of them
    if above.numel() == 0:
        above = _above_noise(magnitudes)
    if above.numel() == 0:
        return magnitudes.nan_to_num_(0.0, 0.0).max().item() if magnitudes.numel() else 0.0
    tenth = above.kthvalue(math.ceil(above.numel() / 10)).values.item()
    return magnitudes.where(magnitudes <= min(_SPREAD * tenth, sys.float_info.max), 0.0).max().item()


def _above_noise(magnitudes: torch.Tensor) -> torch.Tensor:
    return magnitudes[(magnitudes > _NOISE) & (magnitudes < math.inf)]


def sqnr(want: list[Any], got: list[Any]) -> float:
    """Signal-to-quantization-noise ratio in dB over all outputs, the worst of them; inf if they are equal.

    Integers and bools count as real numbers, complex ones as two. Elements that are equal, infinities and NaNs too, are
    no noise; what is not finite, or an equal fill value far beyond the :func:`bulk_scale`, is no signal. The ratio is
    -inf where shapes differ, or where one side is NaN or infinite and the other is not.
    """
    return min((_sqnr(a, b) for a, b in zip(want, got, strict=True)), default=math.inf)


def _sqnr(want: Any, got: Any) -> float:
    if not isinstance(want, torch.Tensor) or not isinstance(got, torch.Tensor):
        return math.inf if want is got or want == got else -math.inf
    if want.shape != got.shape:
        return -math.inf
    want, got = _real(want), _real(got)
    equal = _equal(want, got)
    noise = (want - got).masked_fill_(equal, 0.0).square_().sum().item()
    if noise == 0:
        return math.inf
    fill = equal & (want.abs() > bulk_scale(want))
    signal = want.masked_fill(fill | ~want.isfinite(), 0.0).square_().sum().item()
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


def is_constant(runs: list[list[Any]]) -> bool:
    """Whether no output varies, neither within a tensor nor between runs."""
    for outputs in zip(*runs, strict=True):
        tensors = [o for o in outputs if isinstance(o, torch.Tensor) and o.numel()]
        if tensors and any((t != tensors[0].flatten()[0]).any() for t in tensors):
            return False
    return True


def is_discrete(value: Any) -> bool:
    """Whether it is a tensor of integers or bools, whose least change is a whole step."""
    return isinstance(value, torch.Tensor) and not value.is_floating_point() and not value.is_complex()


def _real(values: torch.Tensor) -> torch.Tensor:
    return (torch.view_as_real(values.resolve_conj()) if values.is_complex() else values).double()


def _equal(want: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    return (want == got) | (want.isnan() & got.isnan())
