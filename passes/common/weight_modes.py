"""A weight that layers read, as a tensor whose order of dims tells how it can be split into a chain of layers.

Its modes are ``(i, k1, …, kn, o)``: input channels, the kernel's dims longer than one, output channels; the groups of a
convolution come first, each a tensor of its own. Cut between any two modes, the tensor is a matrix. Where that matrix has
a low rank r, the layer is two: one for the modes before the cut, with r outputs, one for those after it. Several cuts
make a tensor train (Oseledets 2011):

=================  ========================  ===================================================
cuts               chain for a 3x3 kernel    known as
=================  ========================  ===================================================
i k k | o          3x3, 1x1                  channel SVD (Zhang et al. 2016, section 3.1)
i k | k o          3x1, 1x3                  spatial SVD (Jaderberg et al. 2014, scheme 2; Tai et al. 2016)
i | k k | o        1x1, 3x3, 1x1             Tucker-2 (Kim et al. 2016)
i | k | k | o      1x1, 3x1, 1x3, 1x1        tensor train
i | o              two linears               SVD
=================  ========================  ===================================================

Only the canonical polyadic form (CP, Lebedev et al. 2015: 1x1, depthwise 3x1 and 1x3, 1x1) is no train.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

Kind = Literal["matrix", "convolution", "transposed"]


@dataclass(frozen=True)
class Piece:
    """A layer of a chain: its groups, channels in each, and the kernel's dims that it has; the others are 1 in it."""

    groups: int
    ins: int
    outs: int
    dims: tuple[int, ...] = ()


@dataclass(frozen=True)
class Core:
    """A piece with its weight float64, whose elements are in the order of ``[groups, ins, *kernel, outs]``."""

    piece: Piece
    tensor: torch.Tensor


@dataclass(frozen=True, eq=False)
class SplitWeight:
    """A stored weight under all its names, and the layers that read it, in order.

    A ``flipped`` matrix is stored as ``[in, out]``, any other as ``[out, in]``.
    """

    names: tuple[str, ...]
    tensor: torch.Tensor
    readers: tuple[fx.Node, ...]
    kind: Kind
    groups: int = 1
    flipped: bool = False

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel; empty for a matrix."""
        return tuple(self.tensor.shape[2:])

    @property
    def wide(self) -> tuple[int, ...]:
        """The kernel's dims that are longer than one."""
        return tuple(d for d, size in enumerate(self.kernel) if size > 1)

    @property
    def modes(self) -> tuple[int, ...]:
        """Sizes of the modes ``(i, k1, …, kn, o)`` of one group."""
        first, second = self.tensor.shape[:2]
        match self.kind, self.flipped:
            case "transposed", _:
                ins, outs = first // self.groups, second
            case "matrix", True:
                ins, outs = first, second
            case _:
                ins, outs = second, first // self.groups
        return (ins, *(self.kernel[d] for d in self.wide), outs)

    def full(self, cut: int) -> int:
        """The largest rank possible at a cut, which stands before mode ``cut``."""
        return min(math.prod(self.modes[:cut]), math.prod(self.modes[cut:]))

    def canonical(self) -> torch.Tensor:
        """The weight as float64 ``[groups, *modes]``."""
        weight = self.tensor.detach().double()
        if self.kind == "matrix":
            return (weight if self.flipped else weight.T)[None]
        blocks = weight.unflatten(0, (self.groups, -1))
        last = 2 if self.kind == "transposed" else 1
        return blocks.movedim(last, -1).reshape(self.groups, *self.modes)

    def restored(self, canonical: torch.Tensor) -> torch.Tensor:
        """The weight in its own shape and dtype, from its canonical form."""
        return self.stored(Core(Piece(self.groups, self.modes[0], self.modes[-1], self.wide), canonical))

    def stored(self, core: Core) -> torch.Tensor:
        """A core as the weight of a layer of the readers' kind."""
        piece = core.piece
        if self.kind == "matrix":
            tensor = core.tensor.reshape(piece.ins, piece.outs)
            tensor = tensor if self.flipped else tensor.T
        else:
            sizes = [self.kernel[d] if d in piece.dims else 1 for d in range(len(self.kernel))]
            tensor = core.tensor.reshape(piece.groups, piece.ins, *sizes, piece.outs)
            tensor = tensor.movedim(-1, 2 if self.kind == "transposed" else 1).flatten(0, 1)
        return tensor.to(self.tensor.dtype).contiguous()
