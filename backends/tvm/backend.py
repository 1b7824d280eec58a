"""The TVM backend and its options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from fxopt.backend import Backend, Runner
from fxopt.backends.onnx.runtime import usable_cores
from fxopt.backends.tvm import runtime

if TYPE_CHECKING:
    from torch import fx

    from fxopt.pipeline import Pipeline
    from fxopt.program import Program
    from fxopt.qdq import Policy
    from fxopt.target import Target

_CHAIN = ("aten.add.Tensor", "aten.cat", "aten.max_pool2d", "aten.avg_pool2d", "aten.adaptive_avg_pool2d")


@dataclass(frozen=True)
class Tvm(Backend):
    """Compile the whole model to machine code of the target, with layers in tiles of registers.

    TVM writes the code. The artifact is a library and its parameters, with weights packed as the kernels read them; it
    serves every size of the dynamic dims. ``threads`` is None for all cores that the process may use; more than the machine
    has processors are not started.

    A quantized program is computed in integers: values between layers are bytes, products of bytes are added in 32 bits by
    the instruction that the target has for it (AMX, VNNI, sdot), and each kernel gives codes, or float where nothing reads
    codes. The report says how many convolutions and products are in integers, and of each in float why.
    """

    name: ClassVar[str] = "tvm"
    threads: Annotated[int, Ge(1)] | None = None

    def refuses(self, node: fx.Node) -> str | None:
        """Why TVM's importer has no form of a node; None if it has, directly or through torch's core ops."""
        from fxopt.backends.tvm.refusal import refuses

        return refuses(node)

    def legalize(self) -> Pipeline:
        """Bring writes, batch norms, averages and clamps into the form that fuses with convolutions."""
        from fxopt.pipeline import Pipeline

        return Pipeline.parse("functionalize_writes, fold_batch_norm, pool_to_mean, canonicalize_clamp")

    def quant_policy(self, target: Target) -> Policy:
        """Inputs and weights of layers, and what lies between them: sums, pools and concatenations in codes.

        A kernel writes float as well as codes, so a convolution's output is quantized only where all that read it take codes.
        No instruction used adds products in 16 bits, so weights may be as large as they are.
        """
        from fxopt.qdq import Policy

        return Policy("between_integers", chain=_CHAIN)

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Write ``model.so`` and ``model.params``; return the number of kernels and the tiles chosen. Raises BackendError."""
        from fxopt.backends.tvm.compiling import compile_module
        from fxopt.backends.tvm.importing import import_program
        from fxopt.backends.tvm.processor import processor_of
        from fxopt.backends.tvm.tasks import Choices

        processor = processor_of(target)
        return compile_module(import_program(program), processor, Choices(processor), out)

    def load(self, folder: Path, manifest: dict[str, Any]) -> Runner:
        """Load the library. Raises BackendError where TVM refuses it."""
        needs_tiles = manifest.get("facts", {}).get("integer_instruction") == "amx-int8"
        return runtime.make_runner(folder, self.threads, needs_tiles=needs_tiles)

    def missing(self) -> str | None:
        """The package that building or running needs and that is not installed, or is in a version that crashes."""
        return runtime.missing()

    def variants(self) -> tuple[Tvm, ...]:
        """All cores or one."""
        threads = (None, 1) if self.threads is None and usable_cores() > 1 else (self.threads,)
        return tuple(replace(self, threads=t) for t in threads)
