"""A program that runs a compiled model without Python: C++ sources, of which each runtime adds one.

main.cc       the program; options.hpp, its command line
model.hpp     what a runtime has to define: tvm.cc and onnx.cc do
interface.hpp what a model takes and gives, from interface.txt; the check of inputs
npy.hpp       files of tensors; tensor.hpp, one in memory
generate.hpp  tokens from a causal language model
timing.hpp    how long calls take, and the peak memory
errors.hpp    what goes wrong, and by whose mistake
"""

from __future__ import annotations

from pathlib import Path


def sources(runtime: str) -> tuple[Path, ...]:
    """The files of the program for a runtime, which is the name of its file: ``tvm`` or ``onnx``."""
    folder = Path(__file__).parent
    return (*sorted(folder.glob("*.hpp")), folder / "main.cc", folder / f"{runtime}.cc")


__all__ = ["sources"]
