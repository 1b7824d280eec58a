"""The ONNX backend and its options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from fxopt.backend import Backend, Runner, not_installed
from fxopt.backends.onnx.runtime import MODEL_FILE, cannot_run_on_gpu, make_runner, usable_cores
from fxopt.qdq import Policy

if TYPE_CHECKING:
    from torch import fx

    from fxopt.bundle.standalone import Standalone
    from fxopt.pipeline import Pipeline
    from fxopt.program import Program
    from fxopt.target import Target

Level = Literal["all", "extended", "basic", "disabled"]


@dataclass(frozen=True)
class Onnx(Backend):
    """Lower to ONNX and run in ONNX Runtime, with integer kernels for quantized programs.

    ``threads`` is None for all cores the process may use; ``arena`` keeps freed memory for the next run; ``opset``
    is the version of the ONNX operators.
    """

    name: ClassVar[str] = "onnx"
    threads: Annotated[int, Ge(1)] | None = None
    optimization_level: Level = "all"
    arena: bool = True
    opset: Annotated[int, Interval(ge=18, le=23)] = 20

    def refuses(self, node: fx.Node) -> str | None:
        """Why the exporter has no ONNX form of a node, or the runtime no kernel for its dtype; None if they have."""
        from fxopt.backends.onnx.refusal import refuses, without_kernel

        return without_kernel(node, self.opset) or refuses(node)

    def legalize(self) -> Pipeline:
        """Bring writes, attention, averages and clamps into the form that the exporter takes and integer kernels know."""
        from fxopt.pipeline import Pipeline

        return Pipeline.parse("functionalize_writes, attention_to_4d, mean_to_pool, pool_to_mean, canonicalize_clamp")

    def quant_policy(self, target: Target) -> Policy:
        """Placement that the runtime fuses to integer kernels: Q/DQ also around a convolution's output.

        x86 kernels before VNNI add two products of an unsigned and a signed byte in 16 bits, with saturation; they are
        exact only if two neighbouring weights add up to at most 128 (255 * 128 < 2**15).
        """
        return Policy(pair_sum=128 if target.int8_saturates else None)

    def suits(self, target: Target) -> dict[str, str]:
        """The range of int8 weights; the file itself runs on any machine."""
        how = (
            "two neighbours add up to 128 at most, as products are added in 16 bits before VNNI"
            if target.int8_saturates
            else "full range, as products are added in 32 bits"
        )
        return {"int8 weights": how, "kernels": "chosen by ONNX Runtime when the file is loaded there"}

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Write ``model.onnx`` and return what the runtime's optimizer made of it. Raises BackendError."""
        from fxopt.backends.onnx.export import export
        from fxopt.backends.onnx.kernels import kernel_facts

        origins = export(program, self.opset, out / MODEL_FILE)
        return kernel_facts(out / MODEL_FILE, origins)

    def load(self, folder: Path, manifest: dict[str, Any]) -> Runner:
        """Open the model in ONNX Runtime. Raises BackendError where the runtime refuses it."""
        float16 = manifest.get("facts", {}).get("float16", False)
        gpu = "cuda" in manifest.get("target", {}).get("features", ())
        options = (self.threads, self.optimization_level, self.arena)
        return make_runner(folder / MODEL_FILE, *options, float16=float16, gpu=gpu)

    def standalone(self, folder: Path, manifest: dict[str, Any]) -> Standalone:
        """The program that runs a model in ONNX Runtime's library, with the options of :meth:`load`."""
        from fxopt.backends.onnx.standalone import standalone

        float16 = manifest.get("facts", {}).get("float16", False)
        return standalone(self.threads, self.optimization_level, self.arena, float16=float16)

    def cannot_build(self, target: Target) -> str | None:
        """What is missing here. The file runs anywhere, and is checked and timed where the target's kernels are."""
        return self.missing()

    def elsewhere(self, target: Target) -> str | None:
        """That the runtime installed here has no kernels for a GPU."""
        return cannot_run_on_gpu() if "cuda" in target.features else None

    def missing(self) -> str | None:
        """The package that building or running needs and that is not installed."""
        return not_installed(("onnx", "onnxscript", "onnxruntime"), "onnx")

    def variants(self) -> tuple[Onnx, ...]:
        """All cores or one, and the optimizer with and without layouts of its own for memory."""
        threads = (None, 1) if self.threads is None and usable_cores() > 1 else (self.threads,)
        levels: tuple[Level, ...] = (
            ("all", "extended") if self.optimization_level == "all" else (self.optimization_level,)
        )
        return tuple(replace(self, threads=t, optimization_level=level) for level in levels for t in threads)

    def tune(self, program: Program, target: Target, seconds: float) -> Onnx:
        """Return a copy with the threads, level and arena that measured fastest on this machine."""
        from fxopt.backends.onnx.tune import tune

        return tune(self, program, target, seconds)
