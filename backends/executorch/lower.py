"""A program as a ``.pte`` file: exported, partitioned for XNNPACK, with memory planned for the largest sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fxopt.backends.executorch.delegation import Delegation, Refusals, delegation, note_origins
from fxopt.backends.executorch.kernel_form import kernel_form
from fxopt.backends.executorch.runtime import quiet
from fxopt.errors import BackendError, FxoptError, last_line
from fxopt.frontend.pt2 import export_program
from fxopt.ir.program import Program


def lower(program: Program, path: Path) -> Delegation:
    """Write ``program`` as ``path``; return what XNNPACK took of it. Raises BackendError where ExecuTorch fails.

    Every dynamic size needs an upper bound.
    """
    form, stored = kernel_form(program)
    exported = export_program(form, largest=True)
    note_origins(exported, form)
    try:
        # modules that ExecuTorch imports late draw random numbers: the caller's generator is not theirs, nor is the build random
        with quiet(), torch.random.fork_rng(devices=[]), Refusals() as refusals:
            edge = _partitioned(exported)
            found = delegation(edge, refusals.reasons, program, stored)
            made = edge.to_executorch()  # which rewrites the graph
    except FxoptError:
        raise
    except Exception as error:
        raise BackendError(
            f"ExecuTorch cannot lower the program: {type(error).__name__}: {last_line(error)}"
        ) from error
    path.write_bytes(made.buffer)
    plan = made.executorch_program.execution_plan[0]
    return replace(found, arena=sum(plan.non_const_buffer_sizes))


def _partitioned(exported: torch.export.ExportedProgram) -> Any:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    from fxopt.backends.executorch.edge_passes import infer_view_sizes

    return to_edge_transform_and_lower(
        exported,
        transform_passes=[infer_view_sizes],
        partitioner=[XnnpackPartitioner()],
        # the runtime has kernels of more ops than torch's core, which the verifier would refuse
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
