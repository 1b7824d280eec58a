"""Rows of weights as small integers, with one scale for each block of neighbouring inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

Stored = Literal["float32", "bfloat16"]
_LEAST = torch.finfo(torch.float32).tiny
"""Least scale, of a block that is all zeros; bfloat16 has it too."""


@dataclass(frozen=True)
class Grid:
    """Integers from ``low`` to ``high``, how many neighbouring inputs share a scale, and how scales are stored.

    A row may end within a block.
    """

    low: int
    high: int
    block: int
    stored: Stored = "float32"

    @classmethod
    def of(cls, bits: int, block: int, inputs: int, stored: Stored = "float32") -> Grid:
        """The signed integers of ``bits``; a row of at most ``block`` inputs is one block, as is any where that is 0."""
        return cls(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, min(block or inputs, inputs), stored)

    def scales(self, blocks: torch.Tensor) -> torch.Tensor:
        """Scales float32 [...] of ``blocks`` float64 [..., n], the smallest for which nothing is clipped.

        There is one integer more below zero than above. The scale is negative where that lets the largest weight use it.
        Over symmetric integers this gains 1 dB at 4 bits, and a zero point besides the scale would add half of that. Scales
        that are stored in bfloat16 are positive, and rounded up so that still nothing is clipped.
        """
        above, below = blocks.amax(-1).clamp_min(0), (-blocks).amax(-1).clamp_min(0)
        sizes = torch.maximum(torch.maximum(above, below) / -self.low, torch.minimum(above, below) / self.high)
        sizes = sizes.clamp_min(_LEAST)
        if self.stored == "bfloat16":
            return _rounded_up(torch.maximum(above / self.high, below / -self.low).clamp_min(_LEAST))
        return torch.where(above > below, -sizes, sizes).float()

    def codes(self, weights: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """``weights`` float64 rounded to integers, in float64, at float32 ``scales`` that broadcast to them."""
        return torch.round(weights / scales.double()).clamp(self.low, self.high)


@dataclass(frozen=True, eq=False)
class BlockCodes:
    """A block-quantized weight: int8 ``integers`` [out, blocks · block], zero beyond the ``inputs``; ``scales`` [out, blocks]."""

    integers: torch.Tensor
    scales: torch.Tensor
    grid: Grid
    inputs: int

    def real(self) -> torch.Tensor:
        """The dequantized weight float32 [out, in], as the dequantize op computes it."""
        blocks = self.integers.float().unflatten(1, (-1, self.grid.block)) * self.scales.unsqueeze(-1)
        return blocks.flatten(1)[:, : self.inputs]


def _rounded_up(scales: torch.Tensor) -> torch.Tensor:
    """The next numbers that bfloat16 has, as float32."""
    short = scales.to(torch.bfloat16)
    above = torch.nextafter(short, torch.full_like(short, torch.inf))
    return torch.where(short.double() < scales, above, short).float()


def nearest(rows: torch.Tensor, grid: Grid) -> BlockCodes:
    """``rows`` float32 [out, in], rounded to nearest."""
    inputs = rows.shape[1]
    padded = F.pad(rows.detach().double(), (0, -inputs % grid.block))
    blocks = padded.unflatten(1, (-1, grid.block))
    scales = grid.scales(blocks)
    return BlockCodes(grid.codes(blocks, scales.unsqueeze(-1)).flatten(1).to(torch.int8), scales, grid, inputs)
