# mypy: disable-error-code="valid-type, untyped-decorator"
"""The intrinsics for one vector of accumulators, in TVMScript: the computation, and the processor's instruction for it."""

from __future__ import annotations

import functools

from fxopt.backends.tvm.machine.dot_instructions import Kind


@functools.cache
def dot_intrinsic(kind: Kind, lanes: int) -> str:
    """Register the intrinsic for one vector of ``lanes`` accumulators, each of which adds four products; return its name."""
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
