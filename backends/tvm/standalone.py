"""The program that runs a model compiled by TVM without Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fxopt.backend.standalone import Library, Standalone, Wheel
from fxopt.backends.runner import sources
from fxopt.backends.tvm.runtime import LIBRARY

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Facts

_LICENSES = ("*.dist-info/licenses/*",)
_FFI = Wheel(
    "apache-tvm-ffi",
    (Library("tvm_ffi/lib/libtvm_ffi.so", "libtvm_ffi.so"),),
    "tvm_ffi/include/",
    ("tvm/ffi/c_api.h", "dlpack/dlpack.h"),
    _LICENSES,
)
_RUNTIME = Library("tvm/lib/libtvm_runtime.so", "libtvm_runtime.so")
_EXTRA = Library("tvm/lib/libtvm_runtime_extra.so", "libtvm_runtime_extra.so")
_OF_EXTRA = b"tvm.contrib."
"""Prefixes of the functions that only the second library has: sorting and random numbers, which few models call."""


def standalone(folder: Path, facts: Facts, threads: int | None) -> Standalone:
    """The program, with the libraries that the model in ``folder`` calls."""
    libraries = (_RUNTIME, _EXTRA) if _OF_EXTRA in (folder / LIBRARY).read_bytes() else (_RUNTIME,)
    options = {"threads": str(threads)} if threads else {}
    if instruction := facts.get("integer_instruction"):
        options["integer_instruction"] = instruction
    return Standalone(
        sources("tvm"), (Wheel("apache-tvm", libraries, licenses=("tvm/NOTICE", *_LICENSES)), _FFI), options
    )
