"""Sizes of an int8 convolution or matrix product."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fxopt.backends.tvm.machine.dot_instructions import Instruction, Kind
from fxopt.backends.tvm.tiling.task import output_size

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Array, Shape

KernelKind = Kind | Literal["depthwise"]
"""What sums are computed by: an instruction, or one lane of 32 bits for each channel."""
AMX_BYTES = 64
"""Bytes of a row of a tile register."""


@dataclass(frozen=True)
class Geometry:
    """A convolution of quantized values [n, H, W, padded channels]. A product has one line, its rows as columns, and n is 1.

    ``padding`` is top, left, bottom, right; ``width`` is None where it is dynamic, and ``size_hint`` is used instead.
    ``windows_of``: the convolution whose windows are gathered first (im2col), each as the channels of one position in one line.
    ``batch``: the number of products, or a hint, each with a right operand of its own; 0 where that is a weight.
    """

    padded_channels: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    per_group: int
    height: int
    width: int | None
    size_hint: int
    instruction: Instruction
    windows_of: Geometry | None = None
    batch: int = 0

    @property
    def depthwise(self) -> bool:
        """Whether each channel is convolved apart from the others (depthwise)."""
        return self.per_group == 1 and self.groups > 1

    @property
    def kernel_kind(self) -> KernelKind:
        """What its sums are computed by."""
        return "depthwise" if self.depthwise else self.instruction.kind

    def for_weights(self, codes: Array) -> Geometry:
        """With the instruction for its int8 weights ``codes`` [out, in / groups, ...]; depthwise, these make no difference."""
        return self if self.depthwise else dataclasses.replace(self, instruction=self.instruction.for_weights(codes))

    @property
    def vectors(self) -> int:
        """Vectors of output channels."""
        return -(-self.outputs // self.instruction.lanes)

    @property
    def merged(self) -> bool:
        """Whether the columns of a window and their channels are one row of bytes."""
        return self.instruction.kind == "amx" and self.groups == 1 and self.dilation[1] == 1 and self.kernel[1] > 1

    @property
    def in_tile_registers(self) -> bool:
        """Whether its accumulators are in tile registers of AMX."""
        return self.instruction.kind == "amx" and not self.depthwise

    @property
    def columns_apart(self) -> int:
        """Columns of a window that are multiplied one after the other: one, where they are one row of bytes."""
        return 1 if self.merged else self.kernel[1]

    @property
    def depth(self) -> int:
        """Bytes that are multiplied for each line of a window, or each position of it, before padding."""
        if self.merged:
            return self.kernel[1] * self.padded_channels
        return self.per_group if self.groups > 1 else self.padded_channels

    @property
    def step(self) -> int:
        """Bytes that are multiplied at once: a row of a tile register, or the group of an instruction.

        If the depth has a divisor that fills most of a row, that one, so that nothing is padded.
        """
        if self.instruction.kind != "amx":
            return self.instruction.group
        depth = -(-self.depth // 4) * 4
        best = max(s for s in range(4, AMX_BYTES + 1, 4) if depth % s == 0)
        return best if best * 2 > min(depth, AMX_BYTES) else AMX_BYTES

    @property
    def steps(self) -> int:
        """Steps of a line or position of a window."""
        return -(-self.depth // self.step)

    @property
    def multiplications(self) -> int:
        """Multiplications of ``step`` bytes for each accumulator."""
        return self.kernel[0] * self.columns_apart * self.steps

    @property
    def work(self) -> int:
        """Multiply-adds of vectors, of as many bytes each as the instruction takes; of all products of a batch."""
        return max(1, self.batch) * self.out_size[0] * self.columns() * self.vectors * self.multiplications

    @property
    def out_size(self) -> tuple[int, int | None]:
        """Height and width of the output."""
        top, left, bottom, right = self.padding
        down, across = zip(self.kernel, self.stride, self.dilation, strict=True)
        wide = None if self.width is None else output_size(self.width, left + right, *across)
        return output_size(self.height, top + bottom, *down), wide

    def im2col(self) -> Geometry:
        """A product of windows that are gathered first, which wastes no rows of registers where lines are short.

        Chellapilla et al., "High performance convolutional neural networks for document processing" (2006).
        """
        high, wide = self.out_size
        assert wide is not None
        depth = self.kernel[0] * self.kernel[1] * self.padded_channels
        return dataclasses.replace(
            self, padded_channels=depth, kernel=(1, 1), stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), per_group=depth,
            height=1, width=high * wide, windows_of=self,
        )  # fmt: skip

    def key(self) -> str:
        """The same for equal kernels of any model."""
        if self.windows_of is not None:
            return f"{self.windows_of.key()} gathered"
        wide = self.width if self.width is not None else f"~{self.size_hint}"
        sizes = f"{self.per_group}x{self.groups}>{self.outputs} {self.height}x{wide} k{self.kernel[0]}x{self.kernel[1]}"
        steps = f"s{self.stride} p{self.padding} d{self.dilation}".replace(" ", "")
        pairs = f" in {self.batch} pairs" if self.batch else ""
        return f"int8 {self.instruction.kind} {sizes} {steps} l{self.instruction.lanes}{pairs}"

    def columns(self) -> int:
        """Columns of the output, or the size hint where they are dynamic."""
        wide = self.out_size[1]
        return wide if wide is not None else self.size_hint


def matmul_geometry(
    rows: int | None, depth: int, columns: int, size_hint: int, instruction: Instruction, batch: int = 0
) -> Geometry:
    """A product of [rows, depth] by [depth, columns], or of ``batch`` of them."""
    width = int(rows) if isinstance(rows, int) else None
    return Geometry(
        depth, columns, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, depth, 1, width, size_hint, instruction, batch=batch
    )


def size(shape: Shape) -> int:
    """Elements of a known shape."""
    return math.prod(int(extent) for extent in shape)
