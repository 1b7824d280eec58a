"""The ONNX backend and its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_doc import Doc
from annotated_types import Ge, Interval

from fxopt.backend import Backend, Runner, not_installed
from fxopt.backend.kernel_time import NODES, KernelTime
from fxopt.backend.quant_policy import Policy
from fxopt.backends.onnx.runtime import MODEL_FILE, cannot_run_on_gpu, make_runner, session_options
from fxopt.support.scratch import scratch_folder
from fxopt.target.detect import usable_cores
from fxopt.target.int8_pairs import OVERFLOWS, cannot_run_here, overflows

if TYPE_CHECKING:
    from torch import fx

    from fxopt.backend.manifest import Manifest
    from fxopt.backend.standalone import Standalone
    from fxopt.ir.program import Program
    from fxopt.target import Target

Level = Literal["all", "extended", "basic", "disabled"]


@dataclass(frozen=True)
class Onnx(Backend):
    """Export to ONNX and run in ONNX Runtime, with integer kernels for quantized programs.

    On x86 before VNNI the kernels for int8 weights overflow unless pairs of weights are bounded, which costs 2.5 to 4 dB of
    the weights' signal-to-noise ratio; those for uint8 weights take any and a third more time. Elsewhere int8 is as exact,
    and faster.
    """

    name: ClassVar[str] = "onnx"
    artifact_is_code: ClassVar[bool] = False
    threads: Annotated[int, Ge(1), Doc("Threads of a call; None for all cores that the process may use.")] | None = None
    optimization_level: Annotated[Level, Doc("How far the runtime rewrites the graph when it loads it.")] = "all"
    arena: Annotated[bool, Doc("Keep freed memory for the next call.")] = True
    opset: Annotated[int, Interval(ge=18, le=23), Doc("Version of the ONNX operators.")] = 20
    weights: Annotated[
        Literal["int8", "uint8"], Doc("How weights of 8 bits are stored: int8, or uint8 around a zero point of 128.")
    ] = "int8"
    operators: Annotated[
        Literal["runtime", "standard"],
        Doc(
            "Attention, rotary embeddings and RMS norms for ONNX Runtime's kernels, or in ONNX's operators, for any runtime."
        ),
    ] = "runtime"

    def refuses(self, node: fx.Node) -> str | None:
        """Why the exporter has no ONNX form of a node, or the runtime no kernel for its dtype; None if they have."""
        from fxopt.backends.onnx.refusal import refuses, without_kernel

        return without_kernel(node, self.opset) or refuses(node, self.opset)

    def legalize(self) -> str:
        """Bring writes, norms, attention, averages and clamps into the form that the exporter takes and integer kernels know."""
        return (
            "functionalize_writes, canonicalize_ops, unroll_recurrent(sequences=False), split_rms_norm, attention_to_4d, "
            "mean_to_pool, pool_to_mean, canonicalize_clamp"
        )

    def quant_policy(self, target: Target) -> Policy:
        """Placement that the runtime fuses to integer kernels: Q/DQ also around a convolution's output.

        x86 kernels before VNNI add products of unsigned and signed bytes in pairs in 16 bits, which bounds the weights
        that are exact there; those for two unsigned bytes do not, so that ``weights='uint8'`` needs no bound.
        """
        return Policy(pairs_in_16_bits=target.int8_saturates and self.weights == "int8", unpacks_convolutions=True)

    def suits(self, target: Target) -> dict[str, str]:
        """The range of int8 weights; the file itself runs on any machine."""
        how = "full range, as products are added in 32 bits"
        if self.weights == "uint8":
            how = "full range, stored as uint8, whose products are added in 32 bits everywhere"
        elif self.quant_policy(target).pairs_in_16_bits:
            how = "pairs of one sign sum to 128 at most, as products are added in pairs in 16 bits before VNNI"
        return {"int8 weights": how, "kernels": "chosen by ONNX Runtime when the file is loaded there"}

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Write ``model.onnx`` and return what the runtime's optimizer made of it. Raises BackendError."""
        from fxopt.backends.onnx.export import export
        from fxopt.backends.onnx.kernels import kernel_facts
        from fxopt.backends.onnx.unfused import unfused
        from fxopt.backends.onnx.weights import integer_weights
        from fxopt.ir.op_table import find_quantized

        model, on_cpu = out / MODEL_FILE, "cuda" not in target.features
        runtime_operators = on_cpu and self.operators == "runtime"
        origins, nodes = export(
            program,
            self.opset,
            model,
            unsigned_weights=self.weights == "uint8",
            quantized_lstm=on_cpu,
            runtime_operators=runtime_operators,
        )
        facts = kernel_facts(model, origins, self.optimization_level)
        weights = integer_weights(model, origins) if find_quantized(program.graph) else []
        notes = unfused(program) if runtime_operators else []
        return facts | {OVERFLOWS: overflows(weights), NODES: nodes} | ({"notes": notes} if notes else {})

    def expose(self, program: Program, target: Target, folder: Path, names: Sequence[str], out: Path) -> list[str]:
        """Write the same file with more outputs; see :meth:`fxopt.backend.Backend.expose`."""
        from fxopt.backends.onnx.values import expose

        return expose(folder / MODEL_FILE, names, out / MODEL_FILE)

    def stand_in(self, folder: Path, manifest: Manifest) -> Runner | None:
        """The model with its weights as uint8, whose kernels overflow nowhere. None where it is not int8 that is in the way."""
        from fxopt.backends.onnx.weights import unsigned_copy

        if "cuda" in manifest.target.features:
            return None
        with scratch_folder() as scratch:
            unsigned_copy(folder / MODEL_FILE, scratch / MODEL_FILE)
            return self.load(scratch, manifest)

    def load(self, folder: Path, manifest: Manifest) -> Runner:
        """Open the model in ONNX Runtime. Raises BackendError where the runtime refuses it."""
        float16 = manifest.facts.get("float16", False)
        gpu = "cuda" in manifest.target.features
        options = (self.threads, self.optimization_level, self.arena)
        return make_runner(folder / MODEL_FILE, *options, float16=float16, gpu=gpu)

    def profile(self, folder: Path, manifest: Manifest, inputs: list[Any], calls: int) -> list[KernelTime]:
        """By ONNX Runtime's profiler."""
        from fxopt.backends.onnx.profile import profile

        options = session_options(self.threads, self.optimization_level, self.arena)
        float16, gpu = manifest.facts.get("float16", False), "cuda" in manifest.target.features
        nodes = manifest.facts.get(NODES, {})
        return profile(folder / MODEL_FILE, options, inputs, calls, nodes, float16=float16, gpu=gpu)

    def standalone(self, folder: Path, manifest: Manifest) -> Standalone:
        """The program that runs a model in ONNX Runtime's library, with the options of :meth:`load`."""
        from fxopt.backends.onnx.standalone import standalone

        float16 = manifest.facts.get("float16", False)
        return standalone(self.threads, self.optimization_level, self.arena, float16=float16)

    def cannot_build(self, target: Target) -> str | None:
        """What is missing here, or that ONNX Runtime runs on no microcontroller. The file runs anywhere else.

        It is checked and timed where the target's kernels are.
        """
        return "ONNX Runtime needs an operating system" if target.is_bare_metal else self.missing()

    def elsewhere(self, manifest: Manifest) -> str | None:
        """That the runtime installed here has no kernels for a GPU, or that int8 weights overflow in those for this processor."""
        if "cuda" in manifest.target.features:
            return cannot_run_on_gpu()
        return cannot_run_here(manifest.facts)

    def missing(self) -> str | None:
        """The package that building or running needs and that is not installed."""
        return not_installed(("onnx", "onnxscript", "onnxruntime"), "onnx")

    def alternatives(self, target: Target) -> tuple[Onnx, ...]:
        """Bounded weights, and full ones in slower kernels, where the target's kernels for int8 overflow."""
        return (self, replace(self, weights="uint8")) if self.quant_policy(target).pairs_in_16_bits else (self,)

    def variants(self) -> tuple[Onnx, ...]:
        """All cores or one, and the optimizer with and without layouts of its own for memory."""
        threads = (None, 1) if self.threads is None and usable_cores() > 1 else (self.threads,)
        levels: tuple[Level, ...] = (
            ("all", "extended") if self.optimization_level == "all" else (self.optimization_level,)
        )
        return tuple(replace(self, threads=t, optimization_level=level) for level in levels for t in threads)

    def tune(self, program: Program, target: Target, seconds: float) -> Onnx:
        """Return a copy with the threads, level and arena that measured fastest on this machine."""
        from fxopt.backends.onnx.export import export
        from fxopt.backends.onnx.kernels import has_float16
        from fxopt.numerics.execute import example_arrays
        from fxopt.runtime.tune_options import fastest_options

        threads = sorted({1, usable_cores()})
        levels: tuple[Level, ...] = ("all", "extended")
        others = [
            replace(self, threads=t, optimization_level=level, arena=arena)
            for t in threads for level in levels for arena in (True, False)
        ]  # fmt: skip
        with scratch_folder() as folder:
            export(program, self.opset, folder / MODEL_FILE, runtime_operators=self.operators == "runtime")
            float16 = has_float16(folder / MODEL_FILE)

            def runner(candidate: Onnx) -> Runner:
                options = (candidate.threads, candidate.optimization_level, candidate.arena)
                return make_runner(folder / MODEL_FILE, *options, float16=float16)

            return fastest_options([self, *others], runner, example_arrays(program), seconds)
