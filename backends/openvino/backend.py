"""The OpenVINO backend and its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_doc import Doc
from annotated_types import Ge

from fxopt.backend import Backend, Runner, not_installed
from fxopt.backend.kernel_time import NODES, KernelTime
from fxopt.backend.quant_policy import Policy
from fxopt.backends.onnx import Onnx
from fxopt.backends.openvino.runtime import MODEL_FILE, Precision, make_runner, native_precisions, properties
from fxopt.support.scratch import scratch_folder
from fxopt.target.detect import usable_cores
from fxopt.target.int8_pairs import OVERFLOWS, cannot_run_here, overflows

if TYPE_CHECKING:
    from torch import fx

    from fxopt.backend.manifest import Manifest
    from fxopt.ir.program import Program
    from fxopt.target import Target

Hint = Literal["latency", "throughput"]
_CHAIN = (
    "aten.add.Tensor", "aten.cat", "aten.max_pool2d", "aten.avg_pool2d", "aten.adaptive_avg_pool2d", "aten.leaky_relu",
)  # fmt: skip


@dataclass(frozen=True)
class Openvino(Backend):
    """Convert to OpenVINO and run on the CPU, with integer kernels for quantized programs.

    OpenVINO's own choice of ``precision`` is bf16 where the processor multiplies it in hardware (AMX, AVX512-BF16). That is
    faster and keeps 8 bits of each number, so a build of a program in float does not hold its agreement with eager then;
    between integer layers it is within the noise. Calls run one at a time, whatever the ``hint``.
    Integers of 64 bits are computed in 32, and inputs that do not fit are refused.
    """

    name: ClassVar[str] = "openvino"
    artifact_is_code: ClassVar[bool] = False
    threads: Annotated[int, Ge(1), Doc("Threads of a call; None for OpenVINO's own choice.")] | None = None
    precision: Annotated[Precision, Doc("Precision of layers in float; auto for OpenVINO's choice.")] = "f32"
    hint: Annotated[Hint, Doc("What OpenVINO tunes itself for.")] = "latency"

    @property
    def rounds_floats(self) -> bool:
        """Whether layers in float may be in bf16 or f16."""
        return self.precision != "f32"

    def refuses(self, node: fx.Node) -> str | None:
        """Why a node cannot be written as ONNX, which is the way to OpenVINO, or would not be run as it says; None if it can.

        OpenVINO takes quantization to 16 bits for none: it leaves the clipping out with the rounding.
        """
        from fxopt.backends.onnx.refusal import has_16_bits, refuses
        from fxopt.backends.openvino.convert import OPSET, need_exporter
        from fxopt.backends.openvino.refusal import refuses as cannot_convert

        need_exporter()
        if has_16_bits(node):
            return "OpenVINO does not clip codes of 16 bits; quantize to 8 bits, or take the backend onnx(opset=21)"
        return refuses(node, OPSET) or cannot_convert(node)

    def legalize(self) -> str:
        """Bring the program into the form that the ONNX exporter takes."""
        return Onnx().legalize()

    def quant_policy(self, target: Target) -> Policy:
        """Placement that the runtime fuses to integer kernels: inputs and weights of layers, and convolutions in chains.

        A convolution writes bytes as well as floats, so its output is quantized only where all that read it take bytes:
        layers, residual sums, pools and concatenations. Q/DQ around silu and gates would cost more than they save.
        Weights are bounded as for ONNX Runtime: on x86 before VNNI both add products of bytes in 16 bits.
        """
        return Policy("between_integers", chain=_CHAIN, pairs_in_16_bits=target.int8_saturates)

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Write ``model.xml`` and ``model.bin``; return what the runtime made of them. Raises BackendError."""
        from fxopt.backends.openvino.convert import convert
        from fxopt.backends.openvino.kernels import kernel_facts
        from fxopt.backends.openvino.values import integer_weights
        from fxopt.ir.op_table import find_quantized

        model = out / MODEL_FILE
        origins, nodes = convert(program, model)
        facts = kernel_facts(model, self.properties(), origins)
        weights = integer_weights(model, origins) if find_quantized(program.graph) else []
        return facts | {OVERFLOWS: overflows(weights), NODES: nodes}

    def expose(self, program: Program, target: Target, folder: Path, names: Sequence[str], out: Path) -> list[str]:
        """Write the same model with more outputs; see :meth:`fxopt.backend.Backend.expose`."""
        from fxopt.backends.openvino.values import expose

        return expose(folder / MODEL_FILE, names, out / MODEL_FILE)

    def elsewhere(self, manifest: Manifest) -> str | None:
        """That int8 weights overflow in the kernels for this processor."""
        return cannot_run_here(manifest.facts)

    def load(self, folder: Path, manifest: Manifest) -> Runner:
        """Compile the model for this machine. Raises BackendError where OpenVINO refuses it."""
        return make_runner(folder / MODEL_FILE, self.properties())

    def profile(self, folder: Path, manifest: Manifest, inputs: list[Any], calls: int) -> list[KernelTime]:
        """By OpenVINO's performance counters."""
        from fxopt.backends.openvino.profile import profile

        return profile(folder / MODEL_FILE, self.properties(), inputs, calls, manifest.facts.get(NODES, {}))

    def missing(self) -> str | None:
        """The package that building or running needs and that is not installed."""
        return not_installed(("onnx", "onnxscript", "openvino"), "openvino")

    def cannot_build(self, target: Target) -> str | None:
        """What is missing here, or that OpenVINO does not run on the target's processor."""
        if not target.triple.startswith(("x86_64", "aarch64")) or target.triple.endswith("-ios"):
            return f"OpenVINO runs on x86_64 and aarch64, not on {target.triple}; take the backend onnx"
        return super().cannot_build(target)

    def variants(self) -> tuple[Openvino, ...]:
        """All cores or one, and every precision that this processor has instructions for."""
        threads = (None, 1) if self.threads is None and usable_cores() > 1 else (self.threads,)
        precisions = native_precisions() if self.precision == "f32" else (self.precision,)
        return tuple(replace(self, threads=t, precision=p) for p in precisions for t in threads)

    def tune(self, program: Program, target: Target, seconds: float) -> Openvino:
        """Return a copy with the precision and threads that measured fastest on this machine.

        Another precision than the present one and f32 is tried only where it adds less noise than the quantization of
        activations made, so a program in float keeps its own. ``auto`` is not tried: it is f32 or bf16, by the machine.
        """
        from fxopt.backends.openvino.convert import convert
        from fxopt.backends.openvino.precision_check import PrecisionCheck
        from fxopt.numerics.execute import example_arrays
        from fxopt.runtime.tune_options import fastest_options

        precisions: dict[Precision, None] = dict.fromkeys((self.precision, "f32", "bf16"))
        threads = dict.fromkeys((self.threads, 1, usable_cores()))
        inputs, is_precise = example_arrays(program), PrecisionCheck(program)
        runners: dict[Openvino, Runner] = {}
        with scratch_folder() as folder:
            convert(program, folder / MODEL_FILE)
            for candidate in (replace(self, threads=t, precision=p) for p in precisions for t in threads):
                run = make_runner(folder / MODEL_FILE, candidate.properties())
                if candidate.precision in (self.precision, "f32") or is_precise(run, inputs):
                    runners[candidate] = run
            return fastest_options(runners, runners.__getitem__, inputs, seconds)

    def properties(self) -> dict[str, Any]:
        """The options as OpenVINO's properties."""
        return properties(self.threads, self.precision, self.hint)
