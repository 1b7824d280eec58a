"""The ExecuTorch backend and its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_doc import Doc
from annotated_types import Ge

from fxopt.backend import Backend, Runner
from fxopt.backend.kernel_time import NODES, KernelTime
from fxopt.backend.quant_policy import Policy
from fxopt.backends.executorch import runtime
from fxopt.errors import BackendError
from fxopt.target.detect import usable_cores

if TYPE_CHECKING:
    from torch import fx

    from fxopt.backend.manifest import Manifest
    from fxopt.ir.program import Program
    from fxopt.target import Target


_DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor"
_CHAIN = ("aten.add.Tensor", "aten.mul.Tensor", "aten.cat", "aten.max_pool2d", "aten.adaptive_avg_pool2d")


@dataclass(frozen=True)
class Executorch(Backend):
    """Write a file for ExecuTorch, PyTorch's runtime for phones and boards, with XNNPACK's kernels.

    XNNPACK takes the nodes that it has kernels for; each of the others runs in ExecuTorch's own, slower ones, and the report
    names it with the reason. The runtime plans memory for the largest sizes: batches above ``batch`` are run in parts. Every
    other dynamic dim needs an upper bound of its own.
    """

    name: ClassVar[str] = "executorch"
    artifact_is_code: ClassVar[bool] = False
    threads: Annotated[int, Ge(1), Doc("Threads of a call; None for all cores that the process may use.")] | None = None
    batch: Annotated[int, Ge(1), Doc("Largest batch that a call takes at once, unless the example's is larger.")] = 32

    def refuses(self, node: fx.Node) -> str | None:
        """Why the runtime has no kernel of a node; None if it has, directly or through torch's core ops."""
        from fxopt.backends.executorch.refusal import refuses

        return refuses(node)

    def legalize(self) -> str:
        """Bring writes, norms, means and clamps into the forms that XNNPACK takes."""
        return (
            "functionalize_writes, canonicalize_ops, unroll_recurrent, split_rms_norm, fold_batch_norm, mean_to_pool, "
            "canonicalize_clamp"
        )

    def quant_policy(self, target: Target) -> Policy:
        """Pairs around every layer, linears too, and what is added, multiplied, joined or averaged between them.

        XNNPACK takes a layer in integers only with the quantize op behind it, and joins values of one scale alone. Average
        pools, sigmoid and leaky relu it has in float only. Its kernels widen bytes before they multiply, or use VNNI. A linear
        that quantizes its input as it runs does so token by token; those with weights in blocks do, too.
        """
        return Policy(
            "always", chain=_CHAIN, linear_output=True, one_scale=("aten.cat",), range_of="token",
            block_inputs="token", block_scales="bfloat16",
        )  # fmt: skip

    def largest_sizes(self, program: Program) -> dict[str, int]:
        """The option ``batch``, or the example's; a bound that the program has stands. Raises BackendError for another dim."""
        from fxopt.numerics.probe_inputs import example_sizes

        sizes = {str(symbol): size for symbol, size in example_sizes(program).items()}
        found = {}
        for symbol, name in program.dims().items():
            low, high = program.ranges.get(symbol, (1, None))
            if name == "batch":
                needed = max(self.batch, low, sizes.get(symbol, 1))
                found[symbol] = needed if high is None else min(high, needed)
            elif high is None:
                raise BackendError(
                    f"the dim {name} has no upper bound, and ExecuTorch plans memory for the largest size",
                    got=program.signature(),
                    way_out="give it one where the model is captured: torch.export.Dim(name, min=…, max=…)",
                )
        return found

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Write ``model.pte`` and return what XNNPACK took of the program. Raises BackendError."""
        from fxopt.backends.executorch.lower import lower

        return lower(program, out / runtime.MODEL_FILE).facts()

    def expose(self, program: Program, target: Target, folder: Path, names: Sequence[str], out: Path) -> list[str]:
        """Build again with what the codes stand for behind the outputs; see :meth:`fxopt.backend.Backend.expose`."""
        from fxopt.backends.executorch.lower import lower
        from fxopt.ir.with_outputs import with_outputs

        readers: dict[str, str] = {}
        for node in program.find(_DEQUANTIZE):
            if node.all_input_nodes[0].name in names:
                readers[node.all_input_nodes[0].name] = node.name
        lower(with_outputs(program, list(readers.values())), out / runtime.MODEL_FILE)
        return list(readers)

    def load(self, folder: Path, manifest: Manifest) -> Runner:
        """Load the file. Needs torch, which ExecuTorch's library for Python is linked with."""
        return runtime.Model(folder / runtime.MODEL_FILE, self.threads)

    def profile(self, folder: Path, manifest: Manifest, inputs: list[Any], calls: int) -> list[KernelTime]:
        """By ExecuTorch's trace, ETDump."""
        from fxopt.backends.executorch.profile import profile

        nodes = manifest.facts.get(NODES, [])
        return profile(folder / runtime.MODEL_FILE, self.threads, inputs, calls, nodes)

    def suits(self, target: Target) -> dict[str, str]:
        """That the file runs on any processor that XNNPACK has kernels for."""
        return {
            "int8 weights": "full range, as products are added in 32 bits",
            "kernels": "chosen by XNNPACK when the file is loaded there",
        }

    def cannot_build(self, target: Target) -> str | None:
        """What is missing here, or that XNNPACK does not run on the target. The file itself is the same for all others."""
        if target.is_bare_metal:
            return (
                "XNNPACK needs an operating system; ExecuTorch's kernels for Cortex-M, of CMSIS-NN, and its compiler for the "
                "Ethos-U take other forms of int8, which fxopt does not write"
            )
        return super().cannot_build(target)

    def missing(self) -> str | None:
        """The package that building or running needs and that is not installed."""
        return runtime.missing()

    def variants(self) -> tuple[Executorch, ...]:
        """All cores or one."""
        threads = (None, 1) if self.threads is None and usable_cores() > 1 else (self.threads,)
        return tuple(replace(self, threads=t) for t in threads)
