"""The reference backend: the program itself, saved as ``.pt2`` and run by torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fxopt.backend import Backend, Runner
from fxopt.backend.kernel_time import KernelTime

if TYPE_CHECKING:
    from fxopt.backend.manifest import Manifest
    from fxopt.ir.program import Program
    from fxopt.target import Target

_FILE = "model.pt2"


@dataclass(frozen=True)
class Eager(Backend):
    """Run the graph in torch, op by op; the reference for numerics."""

    name: ClassVar[str] = "eager"
    artifact_is_code: ClassVar[bool] = False

    def build(self, program: Program, target: Target, out: Path) -> dict[str, Any]:
        """Save the program as ``model.pt2``. Raises UsageError where that cannot be written."""
        from fxopt.frontend.pt2 import save_program

        save_program(program, out / _FILE)
        return {"nodes": len(program.graph.nodes)}

    def load(self, folder: Path, manifest: Manifest) -> Runner:
        """Load the program. Needs torch."""
        import torch
        from torch.utils import _pytree as pytree

        from fxopt.backend.manifest import ConstantInput
        from fxopt.frontend.pt2 import load_program

        program = load_program(folder / _FILE)
        structure = pytree.tree_structure((program.args, program.kwargs))
        constants = {i: fact.constant for i, fact in enumerate(manifest.inputs) if isinstance(fact, ConstantInput)}

        home = os.getpid()

        def run(arrays: list[Any]) -> list[Any]:
            if os.getpid() != home:  # forked: torch would wait for threads that are gone
                torch.set_num_threads(1)
            given = iter(arrays)
            leaves = [
                constants[i] if i in constants else torch.from_numpy(next(given)) for i in range(len(manifest.inputs))
            ]
            args, kwargs = pytree.tree_unflatten(leaves, structure)
            outputs = pytree.tree_leaves(program(*args, **kwargs))
            return [out.numpy() for out in outputs if out is not None]

        return run

    def profile(self, folder: Path, manifest: Manifest, inputs: list[Any], calls: int) -> list[KernelTime]:
        """Node by node, each timed alone."""
        import statistics
        import time

        import torch
        from torch import fx

        from fxopt.backend.manifest import ConstantInput
        from fxopt.frontend.pt2 import load_program
        from fxopt.ir.printer import op_name
        from fxopt.numerics.execute import started, untouched

        program = load_program(folder / _FILE)
        given = iter(torch.from_numpy(array) for array in inputs)
        leaves = [f.constant if isinstance(f, ConstantInput) else next(given) for f in manifest.inputs]
        times: dict[fx.Node, list[float]] = {}

        class Timed(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                begun = time.perf_counter()
                value = super().run_node(n)
                if n.op == "call_function":
                    times.setdefault(n, []).append((time.perf_counter() - begun) * 1000)
                return value

        for _ in range(calls + 1):
            with torch.no_grad(), untouched(program):
                started(Timed(program.module), leaves).run(*leaves, enable_io_processing=False)
        return [KernelTime(n.name, op_name(n), statistics.median(ms[1:]), (n.name,)) for n, ms in times.items()]
