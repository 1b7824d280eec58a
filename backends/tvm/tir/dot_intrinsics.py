# mypy: disable-error-code="valid-type, untyped-decorator"
"""The intrinsics for one vector of accumulators, in TVMScript: the computation, and the processor's instructions for it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from fxopt.backends.tvm.machine.dot_instructions import Kind

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Scalar

_PAIRS = {
    4: ("sse2.pmadd.wd", "ssse3.pmadd.ub.sw.128"),
    8: ("avx2.pmadd.wd", "avx2.pmadd.ub.sw"),
    16: ("avx512.pmaddw.d.512", "avx512.pmaddubs.w.512"),
}
"""By lanes of 32 bits, LLVM's names of the instructions that multiply and add pairs: of 16 bits, and of bytes."""


@functools.cache
def dot_intrinsic(kind: Kind, lanes: int) -> str:
    """Register the intrinsic for one vector of ``lanes`` accumulators, each of which adds four products; return its name."""
    from tvm.s_tir import TensorIntrin
    from tvm.script import tirx as T

    width, data = 4 * lanes, "int8" if kind == "sdot" else "uint8"
    add = {"vnni": _vpdpbusd, "sdot": _sdot, "pmaddwd": _pmaddwd, "pmaddubsw": _pmaddubsw}[kind]

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
            c[T.ramp(T.int32(0), 1, lanes)] = add(
                c.vload([0], dtype=f"int32x{lanes}"),
                T.broadcast(T.reinterpret(a.vload([0], f"{data}x4"), dtype="int32"), lanes),
                b.vload([0, 0], dtype=f"int8x{width}"),
                lanes,
            )

    registered = f"fxopt_{kind}_{lanes}"
    TensorIntrin.register(registered, described, computed, override=True)
    return registered


def _vpdpbusd(sums: Scalar, bytes_of_data: Scalar, weights: Scalar, lanes: int) -> Scalar:
    """AVX-512 VNNI and AVX-VNNI."""
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    return _call(name, f"int32x{lanes}", sums, _as(f"int8x{4 * lanes}", bytes_of_data), weights)


def _sdot(sums: Scalar, bytes_of_data: Scalar, weights: Scalar, lanes: int) -> Scalar:
    """The dot product of ARMv8.2."""
    return _call("llvm.aarch64.neon.sdot", f"int32x{lanes}", sums, _as(f"int8x{4 * lanes}", bytes_of_data), weights)


def _pmaddwd(sums: Scalar, bytes_of_data: Scalar, weights: Scalar, lanes: int) -> Scalar:
    """x86 before VNNI, exact: the even bytes and the odd ones are widened to 16 bits where they are, by a mask or a shift."""
    from tvm.tirx import bitwise_and, shift_left, shift_right

    name, words = f"llvm.x86.{_PAIRS[lanes][0]}", f"int16x{2 * lanes}"
    data, signed = _as(f"u{words}", bytes_of_data), _as(words, weights)
    even = shift_right(shift_left(signed, _same(8, words)), _same(8, words))
    low, high = bitwise_and(data, _same(255, f"u{words}")), shift_right(data, _same(8, f"u{words}"))
    sums += _call(name, f"int32x{lanes}", _as(words, low), even)
    return sums + _call(name, f"int32x{lanes}", _as(words, high), shift_right(signed, _same(8, words)))


def _pmaddubsw(sums: Scalar, bytes_of_data: Scalar, weights: Scalar, lanes: int) -> Scalar:
    """x86 before VNNI, where no pair of products overflows 16 bits (:mod:`fxopt.target.int8_pairs`)."""
    pairs, bytes_ = _PAIRS[lanes]
    words = f"int16x{2 * lanes}"
    added = _call(f"llvm.x86.{bytes_}", words, _as(f"int8x{4 * lanes}", bytes_of_data), weights)
    return sums + _call(f"llvm.x86.{pairs}", f"int32x{lanes}", added, _same(1, words))


def _call(name: str, dtype: str, *operands: Scalar) -> Scalar:
    from tvm import tirx

    return tirx.call_llvm_pure_intrin(dtype, name, *operands)


def _as(dtype: str, value: Scalar) -> Scalar:
    from tvm import tirx

    return tirx.reinterpret(dtype, value)


def _same(value: int, dtype: str) -> Scalar:
    """A vector of one value."""
    from tvm import tirx

    scalar, _, lanes = dtype.rpartition("x")
    return tirx.Broadcast(tirx.const(value, scalar), int(lanes))
