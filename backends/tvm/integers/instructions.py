"""Which instruction of a processor multiplies bytes and adds the products in 32 bits, and what it wants of its operands."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from fxopt.backends.tvm.processor import Processor

SPOKEN = {"amx": "amx-int8", "vnni": "vpdpbusd", "sdot": "sdot", "plain": "chosen by LLVM"}
"""Instructions as the report names them."""
Kind = Literal["amx", "vnni", "sdot", "plain"]


@dataclass(frozen=True)
class Instruction:
    """``group`` neighbouring bytes are multiplied and added in one lane; ``signed``: activations must be signed.

    ``held`` is what the number of channels in memory is a multiple of.
    """

    kind: Kind
    lanes: int
    group: int = 4
    signed: bool = False

    @property
    def stored(self) -> tuple[str, int]:
        """The dtype that codes of one unsigned byte are stored in, and what is taken from them for that."""
        return ("int8", 128) if self.signed else ("uint8", 0)

    def held(self, channels: int) -> int:
        """Channels that are held in memory for so many: whole vectors, or whole groups if there are few."""
        step = self.lanes if channels > 4 else 4
        return -(-channels // step) * step


def instruction_of(processor: Processor) -> Instruction:
    """The best there is: AMX, AVX-512 VNNI or AVX-VNNI, sdot; else products that LLVM finds instructions for, smlal for one."""
    has, lanes = processor.features, processor.lanes
    if processor.triple.startswith("x86_64"):
        if lanes == 16 and "amx-int8" in has:
            return Instruction("amx", lanes)
        if (lanes == 16 and "avx512-vnni" in has) or (lanes == 8 and "avx-vnni" in has):
            return Instruction("vnni", lanes)
    if "neon-dotprod" in has:
        return Instruction("sdot", lanes, signed=True)
    return Instruction("plain", lanes, group=1)


@functools.cache
def dot_intrinsic(kind: Kind, lanes: int) -> str:
    """Register the intrinsic for one vector of sums of ``lanes``: each adds four products; return its name."""
    from tvm.s_tir import TensorIntrin
    from tvm.script import tirx as T

    width, data = 4 * lanes, "int8" if kind == "sdot" else "uint8"
    sums_type, bytes_type, few = f"int32x{lanes}", f"int8x{width}", f"{data}x4"
    name = "llvm.aarch64.neon.sdot" if kind == "sdot" else f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"

    @T.prim_func(s_tir=True)
    def described(
        a: T.Buffer((4,), data, offset_factor=1),
        b: T.Buffer((lanes, 4), "int8", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:4], b[0:lanes, 0:4])
            T.writes(c[0:lanes])
            for i in T.serial(0, lanes):
                for k in T.serial(0, 4):
                    with T.sblock("update"):
                        vi, vk = T.axis.remap("SR", [i, k])
                        c[vi] = c[vi] + T.cast(a[vk], "int32") * T.cast(b[vi, vk], "int32")

    @T.prim_func(s_tir=True)
    def computed(
        a: T.Buffer((4,), data, offset_factor=1),
        b: T.Buffer((lanes, 4), "int8", offset_factor=1),
        c: T.Buffer((lanes,), "int32", offset_factor=1, scope="local"),
    ) -> None:
        with T.sblock("root"):
            T.reads(c[0:lanes], a[0:4], b[0:lanes, 0:4])
            T.writes(c[0:lanes])
            c[T.ramp(T.int32(0), 1, lanes)] = T.call_llvm_pure_intrin(
                name,
                c.vload([0], dtype=sums_type),
                T.reinterpret(T.broadcast(T.reinterpret(a.vload([0], few), dtype="int32"), lanes), dtype=bytes_type),
                b.vload([0, 0], dtype=bytes_type),
                dtype=sums_type,
            )

    registered = f"fxopt_{kind}_{lanes}"
    TensorIntrin.register(registered, described, computed, override=True)
    return registered

