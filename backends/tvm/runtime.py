"""Running what TVM compiled; nothing here needs torch."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fxopt.backend import Runner, not_installed
from fxopt.errors import BackendError, UsageError, last_line
from fxopt.target.detect import usable_cores

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Array, Tensor, VirtualMachine

LIBRARY = "model.so"
PARAMETERS = "model.params"
_FFI = "0.1.14.post1"
_BROKEN_FFI = "0.1.15"


def missing() -> str | None:
    """The package that is not installed, or is in a version that crashes; None if TVM can be imported.

    With apache-tvm-ffi 0.1.15, which pip takes for TVM 0.27, the process ends with a segmentation fault.
    """
    if reason := not_installed(("tvm", "tvm_ffi"), "tvm"):
        return reason
    try:
        version = importlib.metadata.version("apache-tvm-ffi")
    except importlib.metadata.PackageNotFoundError:  # built from source
        return None
    if version.startswith(_BROKEN_FFI):
        return (
            f"apache-tvm-ffi {version} ends the process; install the one before it: pip install apache-tvm-ffi=={_FFI}"
        )
    return None


def need_tvm() -> ModuleType:
    """Import TVM. Raises BackendError where it is not installed, or would crash."""
    if reason := missing():
        raise BackendError(reason)
    _allow_threads(1)
    import tvm

    return tvm


def allow_tiles() -> bool:
    """Request the tile registers of AMX from the system, which a process needs before it uses them; whether it grants them."""
    import ctypes
    import platform

    if platform.machine() != "x86_64":
        return False
    arch_prctl, request, tile_data = 158, 0x1023, 18  # Linux: the call, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    try:
        return int(ctypes.CDLL(None, use_errno=True).syscall(arch_prctl, request, tile_data)) == 0
    except (OSError, AttributeError):
        return False


_here = threading.local()


def _allow_threads(count: int) -> None:
    """Give the runtime's pool ``count`` threads or one per core, not pinned to cores.

    By default TVM uses half of the processors, taking them for hyperthreads, and pins its threads to single cores, where
    they wait behind whatever else runs there. It reads this when a thread of the caller's starts its first kernel.
    """
    given = os.environ.get("TVM_NUM_THREADS", "")
    size = max(count, os.cpu_count() or 1, int(given) if given.isdigit() else 0)
    os.environ["TVM_NUM_THREADS"] = str(size)
    os.environ.setdefault("TVM_BIND_THREADS", "0")


def use_threads(count: int) -> None:
    """Let the kernels that the calling thread starts from now on run in ``count`` threads."""
    if getattr(_here, "count", None) == count:
        return
    import tvm

    set_threads(tvm.get_global_func, count)
    _here.count = count


def set_threads(get_function: Callable[[str], Callable[..., object]], count: int) -> None:
    """As :func:`use_threads`, each time; ``get_function`` finds TVM's functions, here or on a device."""
    big_cores = 1  # TVM's affinity mode without pinning or power saving
    get_function("runtime.config_threadpool")(big_cores, count)


def open_machine(
    folder: Path, *, needs_tiles: bool = False
) -> tuple[VirtualMachine, list[Tensor], list[tuple[int, ...]]]:
    """Load a library; return its virtual machine, its parameters, and the input shapes of ``fixed``, empty without that.

    Raises BackendError where TVM refuses the library, or the system the tile registers that it needs (``needs_tiles``).
    """
    tvm = need_tvm()
    if needs_tiles and not allow_tiles():
        raise BackendError(
            f"{folder / LIBRARY} multiplies in the tile registers of AMX, which this system does not give to a process\n"
            "  build for a target whose features lack amx-int8"
        )
    from tvm.relax import VirtualMachine

    device = tvm.cpu()
    try:
        machine = VirtualMachine(tvm.runtime.load_module(str(folder / LIBRARY)), device)
        stored = tvm.runtime.load_param_dict_from_file(str(folder / PARAMETERS))
    except Exception as error:
        raise BackendError(f"TVM {tvm.__version__} cannot load {folder / LIBRARY}: {last_line(error)}") from error
    parameters = [stored[f"p{i}"] for i in range(sum(name.startswith("p") for name in stored))]
    example = [tuple(stored[f"shape{i}"].numpy()[1:]) for i in range(len(stored) - len(parameters))]
    return machine, parameters, example


def make_runner(folder: Path, threads: int | None, *, needs_tiles: bool = False) -> Runner:
    """Return a runner of a library with its parameters, on numpy arrays in the order of its inputs, one call at a time.

    ``threads`` None is all cores that the process may use. Raises BackendError, see :func:`open_machine`.
    """
    machine, parameters, example = open_machine(folder, needs_tiles=needs_tiles)
    main, wanted = machine["main"], threads or usable_cores()
    fixed = machine["fixed"] if example else None
    _allow_threads(wanted)

    inputs, one, home = Inputs(), threading.Lock(), os.getpid()

    def run(arrays: list[Array]) -> list[Array]:
        if os.getpid() != home:
            return _after_fork(os.getpid()).submit(call, arrays).result()
        return call(arrays)

    def call(arrays: list[Array]) -> list[Array]:
        use_threads(wanted)
        entry = main if fixed is None or [array.shape for array in arrays] != example else fixed
        with one:
            try:
                outputs = entry(*inputs.tensors(arrays), *parameters)
            except Exception as error:
                raise UsageError(f"TVM refused the inputs: {last_line(error)}") from error
            return [copied(output) for output in outputs]

    return run


@functools.cache
def _after_fork(process: int) -> ThreadPoolExecutor:
    """A thread to run in after a fork: TVM keeps a thread pool for each calling thread, and a fork has none of the pool's."""
    return ThreadPoolExecutor(1)


class Inputs:
    """Arrays as TVM's tensors, which are kept for the next call with the same shapes: allocating one takes as long as a layer."""

    def __init__(self) -> None:
        self._held: list[Tensor] = []
        self._views: list[Array] = []

    def tensors(self, arrays: list[Array]) -> list[Tensor]:
        """The tensors, which hold the values until the next call."""
        import numpy as np
        from tvm.runtime import empty

        if [(view.shape, view.dtype) for view in self._views] != [(array.shape, array.dtype) for array in arrays]:
            self._held = [empty(array.shape, str(array.dtype)) for array in arrays]
            self._views = [np.from_dlpack(tensor) for tensor in self._held]
        for view, array in zip(self._views, arrays, strict=True):
            np.copyto(view, array)
        return self._held


def copied(tensor: Tensor) -> Array:
    """A tensor copied to an array; through DLPack, which takes a tenth of the time, if numpy has the dtype."""
    import numpy as np

    return np.array(np.from_dlpack(tensor)) if hasattr(np, str(tensor.dtype)) else tensor.numpy()
