"""A program as a ``.pte`` file: exported, partitioned for XNNPACK, with memory planned for the largest sizes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fxopt.backends.executorch.delegation import Delegation, Refusals, delegation
from fxopt.backends.executorch.kernel_form import kernel_form
from fxopt.errors import BackendError, FxoptError, last_line
from fxopt.frontend.origins import origins_of
from fxopt.frontend.pt2 import export_program
from fxopt.ir.program import Program


def lower(program: Program, path: Path) -> Delegation:
    """Write ``program`` as ``path``; return what XNNPACK took of it. Raises BackendError where ExecuTorch fails.

    Every dynamic size needs an upper bound.
    """
    form, stored = kernel_form(program)
    exported = export_program(form, largest=True)
    try:
        with quiet(), Refusals() as refusals:
            edge = _partitioned(exported)
            found = delegation(edge, refusals.reasons, origins_of(exported, form), program, stored)
            made = edge.to_executorch()  # which rewrites the graph
    except FxoptError:
        raise
    except Exception as error:
        raise BackendError(f"ExecuTorch cannot lower the program: {type(error).__name__}: {last_line(error)}") from error
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """ExecuTorch and torchao warn at import and at every step, and give the root logger a handler."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree", "torch.export")]
    before, handlers = [logger.level for logger in loggers], list(logging.root.handlers)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.handlers[:] = handlers
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
