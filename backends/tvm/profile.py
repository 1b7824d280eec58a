"""Time of each kernel of a library, from the virtual machine that calls it; nothing here needs torch."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from fxopt.backend.kernel_time import KernelTime
from fxopt.backends.tvm.runtime import Inputs, open_machine, use_threads
from fxopt.backends.tvm.types import Array
from fxopt.target.detect import usable_cores

_OWN = "vm.builtin."


def profile(
    folder: Path, threads: int | None, inputs: list[Array], calls: int, nodes: list[list[object]], *, needs_tiles: bool
) -> list[KernelTime]:
    """Kernels in the order of a call, with the median of their times.

    ``nodes`` has the name and the program's nodes of each kernel in the order of calls. The machine's own checks and allocations
    are not among them: measuring takes longer than they do.
    """
    machine, parameters, example = open_machine(folder, needs_tiles=needs_tiles)
    calls_of: list[list[tuple[str, float]]] = []
    begun: list[float] = []

    def told(_: object, name: str, before: bool, *__: object) -> int:
        now = time.perf_counter()
        if before:
            begun.append(now)
        else:
            calls_of[-1].append((name, (now - begun.pop()) * 1000))
        return 0

    machine.set_instrument(told)
    use_threads(threads or usable_cores())
    entry = machine["fixed" if example and [array.shape for array in inputs] == example else "main"]
    for _ in range(calls + 1):
        calls_of.append([])
        entry(*Inputs().tensors(inputs), *parameters)
    rounds = calls_of[1:]
    kernels = [i for i, (name, _) in enumerate(rounds[0]) if not name.startswith(_OWN)]
    return [
        KernelTime(
            rounds[0][i][0], "kernel", statistics.median(one[i][1] for one in rounds), _of(k, len(kernels), nodes)
        )
        for k, i in enumerate(kernels)
    ]


def _of(index: int, count: int, nodes: list[list[object]]) -> tuple[str, ...]:
    """The nodes of one kernel, if the number of calls is the one recorded at build time."""
    return tuple(map(str, nodes[index][1:])) if len(nodes) == count else ()
