"""Which instruction of a processor multiplies bytes and accumulates in 32 bits, and what operands it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fxopt.backends.tvm.machine.processor import Processor

REPORTED_NAMES = {"amx": "amx-int8", "vnni": "vpdpbusd", "sdot": "sdot", "plain": "chosen by LLVM"}
"""Names of instructions in the report."""
_GROUP = 4
"""Bytes that vpdpbusd, sdot and TDPBUSD multiply and add in one lane of 32 bits."""
Kind = Literal["amx", "vnni", "sdot", "plain"]


@dataclass(frozen=True)
class Instruction:
    """``group`` neighbouring bytes are multiplied and added in one lane; ``signed``: activations must be signed.

    ``padded_channels`` rounds up the number of channels in memory.
    """

    kind: Kind
    lanes: int
    group: int = _GROUP
    signed: bool = False

    @property
    def stored(self) -> tuple[str, int]:
        """The dtype that unsigned bytes are stored in, and the offset that is subtracted for that."""
        return ("int8", 128) if self.signed else ("uint8", 0)

    def padded_channels(self, channels: int) -> int:
        """Channels in memory: padded to whole vectors, or to one group of bytes for the few of an image."""
        step = self.lanes if channels > _GROUP else _GROUP
        return -(-channels // step) * step


def instruction_of(processor: Processor) -> Instruction:
    """The best one: AMX, AVX-512 VNNI or AVX-VNNI, sdot; else products that LLVM selects instructions for, such as smlal."""
    has, lanes = processor.features, processor.lanes
    if processor.triple.startswith("x86_64"):
        if lanes == 16 and "amx-int8" in has:
            return Instruction("amx", lanes)
        if (lanes == 16 and "avx512-vnni" in has) or (lanes == 8 and "avx-vnni" in has):
            return Instruction("vnni", lanes)
    if "neon-dotprod" in has:
        return Instruction("sdot", lanes, signed=True)
    return Instruction("plain", lanes, group=1)
