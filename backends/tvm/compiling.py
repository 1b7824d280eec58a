"""A Relax module as a library and its parameters."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from fxopt.backends.tvm.layout import use_blocked_layout
from fxopt.backends.tvm.legalize import legalizers
from fxopt.backends.tvm.parameters import lift_parameters
from fxopt.backends.tvm.processor import Processor
from fxopt.backends.tvm.registers import register_pipeline
from fxopt.backends.tvm.runtime import LIBRARY, PARAMETERS, need_tvm
from fxopt.backends.tvm.schedule import schedule_module
from fxopt.backends.tvm.tasks import Choices
from fxopt.errors import BackendError


def compile_module(module: Any, processor: Processor, choices: Choices, out: Path) -> dict[str, Any]:
    """Write ``model.so`` and ``model.params`` into the folder ``out``; return facts about the kernels.

    Raises BackendError where TVM cannot compile it, or there is no C compiler to link with.
    """
    tvm = need_tvm()
    target = tvm.target.Target(processor.describe())
    try:
        with target:
            lowered, parameters = lift_parameters(lower(module, choices))
            executable = tvm.compile(lowered, target=target, tir_pipeline=register_pipeline())
    except Exception as error:
        raise BackendError(f"TVM {tvm.__version__} cannot compile the model: {_reason(error)}") from error
    _link(executable, processor, out / LIBRARY)
    tvm.runtime.save_param_dict_to_file({f"p{i}": p for i, p in enumerate(parameters)}, str(out / PARAMETERS))
    kernels = sum(isinstance(function, tvm.tirx.PrimFunc) for function in lowered.functions.values())
    return {"kernels": kernels, "tiles": choices.to_dict(), **choices.facts}


def lower(module: Any, choices: Choices) -> Any:
    """The module as scheduled kernels and the calls of them."""
    import tvm
    from tvm.relax import transform

    first = [transform.DecomposeOpsForInference(), transform.CanonicalizeBindings(), transform.ConvertToDataflow(1)]
    module = tvm.transform.Sequential(first)(module)
    module = use_blocked_layout(module, choices)
    fused = [
        transform.DeadCodeElimination(), transform.CanonicalizeBindings(), transform.LegalizeOps(legalizers()),
        transform.AnnotateTIROpPattern(), transform.FoldConstant(), transform.FuseOps(), transform.FuseTIR(),
        transform.DeadCodeElimination(), transform.RewriteDataflowReshape(),
    ]  # fmt: skip
    return schedule_module(tvm.transform.Sequential(fused)(module), choices.processor)


def _link(executable: Any, processor: Processor, path: Path) -> None:
    """Link the library in a folder of its own, so that no path of this machine comes into it."""
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        try:
            executable.export_library(str(path), workspace_dir=folder, **_linker(processor))
        except Exception as error:
            raise BackendError(
                f"the library cannot be linked: {_reason(error)}\n  TVM links with a C++ compiler; install g++"
            ) from error


def _linker(processor: Processor) -> dict[str, Any]:
    import platform

    if processor.triple.split("-")[0] == platform.machine():
        return {}
    return {"cc": f"{processor.triple}-g++"}


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
