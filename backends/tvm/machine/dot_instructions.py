"""Which instruction of a processor multiplies bytes and accumulates in 32 bits, and what operands it needs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fxopt.backends.tvm.machine.processor import Processor
from fxopt.target.int8_pairs import LIMIT, heaviest_pairs

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Array

REPORTED_NAMES = {
    "amx": "amx-int8",
    "vnni": "vpdpbusd",
    "pmaddubsw": "pmaddubsw",
    "pmaddwd": "pmaddwd",
    "sdot": "sdot",
    "plain": "chosen by LLVM",
}
"""Names of instructions in the report."""
_GROUP = 4
"""Bytes that vpdpbusd, sdot and TDPBUSD multiply and add in one lane of 32 bits, as two pairs of x86 before VNNI do."""
_TEMPORARIES = 4
"""Registers for what is computed on the way to a sum of two pairs. With 8 accumulators of 16 registers both ways came within
5 % of the best tile of up to 12, on convolutions of 14 to 56 columns and a product; with 12, LLVM spills."""
_LANES_OF_AVX2 = 8
"""The oldest x86-64, with vectors of 4 lanes, has no PMADDUBSW, which came with SSSE3."""
Kind = Literal["amx", "vnni", "pmaddwd", "pmaddubsw", "sdot", "plain"]


@dataclass(frozen=True)
class Instruction:
    """``group`` neighbouring bytes are multiplied and added in one lane; ``signed``: activations must be signed.

    ``temporaries`` are registers that it needs besides operands and accumulators; ``padded_channels`` rounds up the number
    of channels in memory.
    """

    kind: Kind
    lanes: int
    group: int = _GROUP
    signed: bool = False
    temporaries: int = 0

    @property
    def stored(self) -> tuple[str, int]:
        """The dtype that unsigned bytes are stored in, and the offset that is subtracted for that."""
        return ("int8", 128) if self.signed else ("uint8", 0)

    def padded_channels(self, channels: int) -> int:
        """Channels in memory: padded to whole vectors, or to one group of bytes for the few of an image."""
        step = self.lanes if channels > _GROUP else _GROUP
        return -(-channels // step) * step

    def for_weights(self, codes: Array) -> Instruction:
        """The one to multiply int8 ``codes`` [out, in / groups, ...] with, known when a program is built.

        Where no pair of products can overflow 16 bits, PMADDUBSW multiplies bytes as they are, in half the instructions.
        """
        if self.kind != "pmaddwd" or self.lanes < _LANES_OF_AVX2 or heaviest_pairs(codes).max(initial=0) > LIMIT:
            return self
        return dataclasses.replace(self, kind="pmaddubsw")


def instruction_of(processor: Processor) -> Instruction:
    """The best one: AMX, AVX-512 VNNI or AVX-VNNI, sdot; PMADDWD on other x86, which is exact for all weights.

    Elsewhere products that LLVM selects instructions for, such as smlal.
    """
    has, lanes = processor.features, processor.lanes
    if processor.triple.startswith("x86_64"):
        if lanes == 16 and "amx-int8" in has:
            return Instruction("amx", lanes)
        if (lanes == 16 and "avx512-vnni" in has) or (lanes == 8 and "avx-vnni" in has):
            return Instruction("vnni", lanes)
        return Instruction("pmaddwd", lanes, temporaries=_TEMPORARIES)
    if "neon-dotprod" in has:
        return Instruction("sdot", lanes, signed=True)
    return Instruction("plain", lanes, group=1)
