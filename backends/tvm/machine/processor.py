"""A processor as the code generator and the schedules see it: its vectors, its registers, and TVM's name for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fxopt.errors import BackendError
from fxopt.target import Target

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Facts


@dataclass(frozen=True)
class Processor:
    """``lanes`` float32 fit in a vector, and ``registers`` such vectors in each of ``cores``.

    ``mcpu``, ``mattr`` and ``mabi`` are LLVM's words; ``features`` are those of the target, by which integer kernels are chosen.
    """

    triple: str
    mcpu: str
    mattr: tuple[str, ...] = ()
    lanes: int = 4
    registers: int = 16
    cores: int = 1
    features: frozenset[str] = frozenset()
    mabi: str = ""

    def describe(self) -> Facts:
        """The target as TVM takes it."""
        named: Facts = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.mcpu}
        more = {"mattr": list(self.mattr), "mabi": self.mabi}
        return named | {key: value for key, value in more.items() if value}


def processor_of(target: Target) -> Processor:
    """The processor of a target, by its features: the name that a machine gives its processor is often wrong.

    Raises BackendError for a processor that there are no schedules for.
    """
    triple, has, cores = target.triple, target.features, target.cores
    if "cuda" in has:
        raise BackendError(f"the backend tvm has schedules for processors, and the target {target.name!r} is a GPU")
    named = target.cpu != "generic"
    if target.is_x86:
        if "avx512f" in has:
            newest = "sapphirerapids" if "amx-int8" in has else "cascadelake" if "avx512-vnni" in has else "x86-64-v4"
            return Processor(triple, target.cpu if named else newest, lanes=16, registers=32, cores=cores, features=has)
        if {"avx2", "fma"} <= has:
            return Processor(
                triple, target.cpu if named else "x86-64-v3", lanes=8, registers=16, cores=cores, features=has
            )
        return Processor(triple, target.cpu if named else "x86-64", cores=cores, features=has)
    if triple.startswith("aarch64"):
        extras = tuple(f"+{word}" for name, word in _ARM if name in has)
        return Processor(triple, target.cpu, ("+neon", *extras), lanes=4, registers=32, cores=cores, features=has)
    if triple.startswith("riscv64"):
        vectors = "rvv" in has  # without, a vector is four scalar registers
        words = ("+m", "+a", "+f", "+d", "+c", *(["+v"] if vectors else []))
        return Processor(
            triple, target.cpu if named else "generic-rv64", words, 4, 32 if vectors else 8, cores, has, mabi="lp64d"
        )
    if triple.startswith("wasm"):
        raise BackendError(
            f"the backend tvm cannot build for {triple!r}: a library there needs TVM's runtime linked into it by Emscripten, "
            "and TVM's package has none\n  the backend onnx gives a file that ONNX Runtime Web runs in a browser"
        )
    raise BackendError(
        f"the backend tvm has schedules for x86_64, aarch64 and riscv64, and the target {target.name!r} is {triple!r}\n"
        "  take another backend, or give the target's triple, e.g. aarch64-linux-gnu"
    )


_ARM = (("neon-dotprod", "dotprod"), ("neon-i8mm", "i8mm"))
