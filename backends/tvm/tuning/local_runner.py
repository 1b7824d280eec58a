"""Kernels compiled by JIT and timed in the same process; and the parts shared with devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.machine.processor import Processor
from fxopt.backends.tvm.tiling.task import Kernel, Tile
from fxopt.backends.tvm.tuning.job import Job, Timer

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Device, Executable, IRModule, Module, TensorExpr

_ROUND_MS, _CALL_MS = 5.0, 0.05
"""Milliseconds of a round of calls, short enough to fall between interruptions, and of calls that are timed together, as
reading the clock takes a fraction of a microsecond."""
_LARGE, _CACHES, _COLD = 2**20, 2**26, 2
"""Bytes of a weight that does not stay in a core's cache until the next call (half of an L2 cache of 2 MB), and of a buffer
that evicts it, larger than L2 and a share of the last-level cache; calls of a round with eviction."""


class LocalRunner:
    """Runs kernels on this machine."""

    def timer(self, job: Job, tile: Tile) -> Timer:
        """Compile a kernel; it has been called once, as the JIT compiles in the first call."""
        import tvm

        from fxopt.backends.tvm.runtime import use_threads

        executable, tensors = compiled(job, tile)
        use_threads(job.threads)
        return timer_of(executable.mod, tensors, tvm.cpu())

    def renew(self) -> bool:
        """No: an error on this machine repeats."""
        return False


def compiled(job: Job, tile: Tile) -> tuple[Executable, list[TensorExpr]]:
    """A kernel in a tile as TVM's executable, and the tensors that are its arguments and result."""
    import tvm

    from fxopt.backends.tvm.tir.pipeline import register_pipeline

    module, tensors = scheduled(job.kernel, tile, job.processor)
    target = tvm.target.Target(job.processor.describe())
    return tvm.compile(module, target=target, tir_pipeline=register_pipeline(job.processor.cores)), tensors


def scheduled(kernel: Kernel, tile: Tile, processor: Processor) -> tuple[IRModule, list[TensorExpr]]:
    """A kernel in a tile as a scheduled module, and the tensors that are its arguments and result."""
    import tvm
    from tvm import te

    from fxopt.backends.tvm.schedule.schedule_module import schedule_module

    tensors = kernel.tensors(tile)
    return schedule_module(tvm.IRModule({"main": te.create_prim_func(tensors)}), processor), tensors


def timer_of(library: Module, tensors: list[TensorExpr], device: Device) -> Timer:
    """A timer of the function ``main`` of a library on a device, on random arrays; it is called once now.

    Before each call with a large weight, the second argument, the caches are evicted, as other layers of a model would do.
    """
    import numpy as np
    import tvm

    random = np.random.default_rng(0).standard_normal(4099)
    numbers = [np.resize(random, _shape(tensor)).astype(str(tensor.dtype.dtype)) for tensor in tensors]
    arrays, size = [tvm.runtime.tensor(values, device) for values in numbers], numbers[1].nbytes
    library["main"](*arrays)
    number = repeat = 0

    def timer() -> float:
        nonlocal number, repeat
        if size > _LARGE:
            cold = library.time_evaluator("main", device, number=1, repeat=_COLD, cache_flush_bytes=_CACHES)
            return float(cold(*arrays).min)
        if not number:
            once = library.time_evaluator("main", device, number=1, repeat=3)(*arrays).min * 1000
            number = max(1, round(_CALL_MS / max(once, 1e-4)))
            repeat = min(100, max(1, round(_ROUND_MS / (once * number))))
        return float(library.time_evaluator("main", device, number=number, repeat=repeat)(*arrays).min)

    return timer


def _shape(tensor: TensorExpr) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape)
