"""A Relax module as a library and its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fxopt.backend.backend import ESTIMATED_CYCLES
from fxopt.backend.kernel_time import NODES
from fxopt.backends.tvm.graph.convert_layout import convert_layout
from fxopt.backends.tvm.graph.kernel_nodes import kernel_nodes, name_constants, name_plain
from fxopt.backends.tvm.graph.legalize import legalizers
from fxopt.backends.tvm.graph.lift_parameters import lift_parameters
from fxopt.backends.tvm.graph.static_entry import FIXED, add_fixed_entry
from fxopt.backends.tvm.interrupts import interrupts_kept
from fxopt.backends.tvm.link import link
from fxopt.backends.tvm.machine.processor import Processor
from fxopt.backends.tvm.runtime import LIBRARY, PARAMETERS, need_tvm
from fxopt.backends.tvm.schedule.schedule_module import schedule_module
from fxopt.backends.tvm.tiling.estimate import estimated_cycles
from fxopt.backends.tvm.tiling.task import Choices
from fxopt.backends.tvm.tir.pipeline import register_pipeline
from fxopt.errors import BackendError, FxoptError, last_line
from fxopt.target.cross_compiler import cross_compiler

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Executable, Facts, IRModule, ModulePass, Stmt


def compile_module(
    module: IRModule, shapes: list[tuple[int, ...]], processor: Processor, choices: Choices, out: Path
) -> Facts:
    """Write ``model.so`` and ``model.params`` into the folder ``out``; return facts about the kernels.

    ``shapes`` are those of the example inputs, for which there is a static entry point.

    Raises BackendError where TVM cannot compile it, or there is no C compiler to link with.
    """
    tvm = need_tvm()
    target = tvm.target.Target(processor.describe())
    try:
        with target, interrupts_kept():
            lowered, parameters = lift_parameters(lower(module, choices))
            lowered = add_fixed_entry(lowered, shapes)
            executable = tvm.compile(
                lowered, target=target, relax_pipeline=_pipeline(), tir_pipeline=register_pipeline(processor.cores)
            )
    except Exception as error:
        raise BackendError(f"TVM {tvm.__version__} cannot compile the model: {last_line(error)}") from error
    _link(executable, processor, out / LIBRARY)
    stored = {f"p{i}": parameter for i, parameter in enumerate(parameters)}
    if FIXED in [name.name_hint for name in lowered.functions]:
        stored |= {f"shape{i}": tvm.runtime.tensor(np.array([len(s), *s], np.int64)) for i, s in enumerate(shapes)}
    (out / PARAMETERS).write_bytes(tvm.runtime.save_param_dict(stored))
    kernels = sum(isinstance(function, tvm.tirx.PrimFunc) for function in lowered.functions.values())
    cycles = estimated_cycles(choices, len(choices.facts[NODES]))
    return {"kernels": kernels, "tiles": choices.to_dict(), ESTIMATED_CYCLES: round(cycles), **choices.facts}


def choose_tiles(module: IRModule, choices: Choices) -> IRModule:
    """The module with its convolutions and products as kernels in tiles by ``choices``."""
    import tvm
    from tvm.relax import transform

    first = [transform.DecomposeOpsForInference(), transform.CanonicalizeBindings(), transform.ConvertToDataflow(1)]
    with interrupts_kept():
        return convert_layout(tvm.transform.Sequential(first)(module), choices)


def kernels_of(module: IRModule, choices: Choices) -> IRModule:
    """The module as kernels, not yet parallelized or vectorized, and the calls of them."""
    import tvm
    from tvm.relax import transform

    module = choose_tiles(module, choices)
    single = [
        transform.DeadCodeElimination(), transform.CanonicalizeBindings(), transform.LegalizeOps(legalizers()),
        transform.AnnotateTIROpPattern(), transform.FoldConstant(),
    ]  # fmt: skip
    module = tvm.transform.Sequential(single)(module)
    constants, plain = name_constants(module), name_plain(module)
    fused = [
        transform.FuseOps(), transform.FuseTIR(), transform.DeadCodeElimination(), transform.RewriteDataflowReshape(),
    ]  # fmt: skip
    module = tvm.transform.Sequential(fused)(module)
    choices.facts[NODES] = kernel_nodes(module, constants, plain)
    return module


def lower(module: IRModule, choices: Choices) -> IRModule:
    """The module as scheduled kernels and the calls of them."""
    return schedule_module(kernels_of(module, choices), choices.processor)


def _pipeline() -> ModulePass:
    """TVM's default pipeline, and then the computations of sizes sorted by where they are stored.

    TVM leaves them in the order of addresses in its memory, so that no two libraries would be the same.
    """
    import tvm
    from tvm import relax

    def in_order(module: IRModule, _: object) -> IRModule:
        for name, function in module.functions_items():
            if isinstance(function, tvm.tirx.PrimFunc) and name.name_hint.startswith("shape_func"):
                module.update_func(name, function.with_body(_by_index(function.body)))
        return module

    return tvm.transform.Sequential(
        [relax.get_pipeline("default_build"), tvm.transform.module_pass(in_order, opt_level=0)]
    )


def _by_index(body: Stmt) -> Stmt:
    from tvm import tirx

    stores = list(body.seq) if isinstance(body, tirx.SeqStmt) else []
    if not all(isinstance(store, tirx.BufferStore) for store in stores) or len(stores) < 2:
        return body
    return tirx.SeqStmt(sorted(stores, key=lambda store: int(store.indices[0])))


def _link(executable: Executable, processor: Processor, path: Path) -> None:
    try:
        link(executable, path, cross_compiler(processor.triple))
    except FxoptError:
        raise
    except Exception as error:
        raise BackendError(
            f"the library cannot be linked: {last_line(error)}\n  TVM links with a C++ compiler; install g++"
        ) from error
