"""Values of a quantized program: quantization parameters, layouts, and affine expressions of integer accumulators."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Array, Expr, Size

Coefficient: TypeAlias = "Array | np.float32 | float"
"""One number, or one for each padded channel."""


@dataclass(frozen=True)
class QuantParams:
    """How a real value is quantized: ``(q - zero) * scale``, with ``q`` in ``low`` … ``high`` of ``dtype``.

    ``offset`` is the program's own quantized value, of dtype ``given``, less the stored one: 128 where the kernels need
    signed bytes.
    """

    scale: float
    zero: int
    low: int
    high: int
    dtype: str
    given: str
    offset: int = 0

    @property
    def is_byte(self) -> bool:
        """Whether a value is stored in one byte, as the integer kernels read it."""
        return self.dtype in ("uint8", "int8")

    def steps(self, value: float) -> float:
        """A real value in steps from the zero point, not clipped, rounded as by the program's quantize op."""
        scaled = np.float32(value) * (np.float32(1.0) / np.float32(self.scale))
        return float(np.round(scaled))

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest quantized value, in steps from the zero point."""
        return self.low - self.zero, self.high - self.zero


@dataclass(frozen=True)
class BufferLayout:
    """Layout of a value in memory: [n, H, W, padded channels] if ``nhwc``, else [rows, C] or the program's own shape.

    ``flat``: the spatial dims are merged: [n, 1, H * W, padded channels].
    """

    shape: tuple[Size, ...]
    channels: int
    nhwc: bool = False
    flat: bool = False

    @property
    def padded_channels(self) -> int:
        """Channels in memory, of which only ``channels`` are used."""
        return int(self.shape[-1])


@dataclass
class Materialized:
    """Buffers that an affine value was written into, each made once: dequantized in its own layout, and quantized as NHWC."""

    real: Expr | None = None
    nhwc: AffineValue | None = None


@dataclass(frozen=True, eq=False)
class AffineValue:
    """``clip(Σ expr * factor + bias, lower, upper)``: a value that no kernel has materialized yet.

    ``params``: set where the value is just its only term, dequantized.
    """

    layout: BufferLayout
    terms: tuple[tuple[Expr, Coefficient], ...]
    bias: Coefficient = 0.0
    lower: float | None = None
    upper: float | None = None
    params: QuantParams | None = None
    materialized: Materialized = field(default_factory=Materialized)

    @property
    def is_clipped(self) -> bool:
        """Whether it has a bound."""
        return self.lower is not None or self.upper is not None

    @property
    def buffer(self) -> Expr:
        """The buffer of its first term, the only one where it is quantized."""
        return self.terms[0][0]

    def clip(self, lower: float | None, upper: float | None) -> AffineValue:
        """With further bounds; the new lower bound is not above the old upper one."""
        low = [bound for bound in (self.lower, lower) if bound is not None]
        high = [bound for bound in (self.upper, upper) if bound is not None]
        return self._changed(lower=max(low, default=None), upper=min(high, default=None))

    def plus(self, offset: Coefficient) -> AffineValue:
        """With a constant, or one for each channel, added; it has no bounds."""
        return self._changed(bias=self.bias + offset)

    def times(self, factor: Coefficient) -> AffineValue:
        """Multiplied by a constant, or by one for each channel; it has no bounds."""
        terms = tuple((expr, old * factor) for expr, old in self.terms)
        return self._changed(terms=terms, bias=self.bias * factor)

    def _changed(self, **changes: object) -> AffineValue:
        return replace(self, params=None, materialized=Materialized(), **changes)  # type: ignore[arg-type]


def of_real(expr: Expr, layout: BufferLayout) -> AffineValue:
    """A value that is in memory in float."""
    return AffineValue(layout, ((expr, np.float32(1.0)),))


def of_quantized(expr: Expr, params: QuantParams, layout: BufferLayout) -> AffineValue:
    """A value that is in memory quantized: ``(expr - zero) * scale``."""
    scale = np.float32(params.scale)
    return AffineValue(layout, ((expr, scale),), np.float32(-params.zero) * scale, params=params)
