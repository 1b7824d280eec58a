"""The last passes before LLVM: TVM's own, and buffers of a tile as stack allocas, so that mem2reg keeps them in registers.

By default TVM 0.27 allocates every buffer from its pool at run time. LLVM cannot know that nothing aliases it, and stores each
accumulator again after each step.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from fxopt.backends.tvm.tir.blocks import map_kernels, on_the_stack
from fxopt.backends.tvm.tir.parallel_threshold import in_threads
from fxopt.backends.tvm.tir.software_pipeline import software_pipelined

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import AllocBuffer, IRModule, ModulePass


@functools.cache
def register_pipeline(cores: int) -> str:
    """Register the pipeline for so many cores with TVM; return its name."""
    import tvm
    from tvm import tirx

    def pipeline() -> tuple[ModulePass, ModulePass, ModulePass]:
        lower, for_host, for_device = tirx.get_tir_pipeline("s_tir")

        def all_passes(module: IRModule, _: object) -> IRModule:
            return in_threads(software_pipelined(_on_the_stack(lower(module))), cores)

        return tvm.transform.module_pass(all_passes, opt_level=0), for_host, for_device

    name = f"fxopt for {cores} cores"
    tirx.register_tir_pipeline(name, pipeline)
    return name


def _on_the_stack(module: IRModule) -> IRModule:
    """Mark the buffers of scope ``local`` so that they are not allocated from the pool."""
    import tvm

    def mark(alloc: AllocBuffer) -> AllocBuffer:
        if alloc.buffer.scope() != "local" or not all(isinstance(size, tvm.tirx.IntImm) for size in alloc.buffer.shape):
            return alloc
        return on_the_stack(alloc.buffer)

    return map_kernels(module, tvm.tirx.AllocBuffer, mark)
