"""The process that compiles and times kernels. Its arguments are the descriptor of a connection and the parent's id.

It stays for all trials, since to import TVM takes seconds, and hides torch from it, which would take longer. A kernel is
compiled in memory, without a file or a linker, and timed in the same process. A trial that ends the process, by a signal
or by taking more memory than allowed, costs that trial: the parent starts another.

Talk over the connection, all pickled: a :class:`Job` comes, and ``"compiled"`` or a reason goes; then ``"go"`` comes, once
no other worker is timing, and a :class:`Times` goes.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from fxopt.backends.tvm.processor import Processor
from fxopt.backends.tvm.tasks import Kernel, Tile

_MEMORY = 3 * 2**30
"""Bytes that a trial may take beside what TVM takes by itself."""
_ROUND_MS, _CALL_MS = 5.0, 0.05
"""Milliseconds of a round of calls, and of calls that are timed together, as the clock is not finer."""
_FEW, _ENOUGH, _MOST = 2, 5, 40
"""Rounds for what is clearly slower than its rival, for what may be faster, and at most, until the minima are certain."""
_NEAR, _CLEARLY, _HOPELESS = 1.03, 0.98, 4.0
"""A round is near the minimum, a tile is faster, and a tile is not even called again, by its part of what it is beside."""


@dataclass(frozen=True)
class Job:
    """A kernel to time in a tile, beside a ``rival``, which is None in the first trial.

    ``seen`` are the least seconds that the rival took before in this search.
    """

    kernel: Kernel
    tile: Tile
    rival: Tile | None
    processor: Processor
    threads: int
    seen: float = math.inf


@dataclass(frozen=True)
class Times:
    """Seconds a call of the tile and of the rival, and whether the tile was clearly faster."""

    seconds: float
    rival: float | None = None
    won: bool = False


def main() -> None:
    """Serve jobs until the parent closes the connection."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    sys.modules["torch"] = None  # type: ignore[assignment]
    from fxopt.backends.tvm.runtime import need_tvm

    need_tvm()
    _limit_memory()
    made: dict[tuple[Kernel, Tile], Timer] = {}
    with Connection(descriptor) as connection:
        connection.send("ready")
        while True:
            try:
                job = connection.recv()
                try:
                    rival = _timer(job, job.rival, made) if job.rival else None
                    mine = _timer(job, job.tile, made)
                except Exception as error:
                    made.clear()
                    connection.send(_reason(error))
                    continue
                connection.send("compiled")
                connection.recv()
                connection.send(compare(mine, rival, job.seen))
                made = {
                    key: timer for key, timer in made.items() if key[0] != job.kernel or key[1] in (job.tile, job.rival)
                }
            except EOFError:
                return


Timer = Callable[[], float]
"""Times a round of calls; gives seconds of the fastest, as what else runs on a machine only adds."""


def compare(mine: Timer, rival: Timer | None, seen: float = math.inf) -> Times:
    """Time a tile in turns with its rival. It wins if its minimum is less by 2 % than that of the rival, here and before.

    A minimum counts if it was nearly reached in three rounds.
    """
    ours: list[float] = []
    theirs: list[float] = []
    timers = ((mine, ours), (rival, theirs)) if rival else ((mine, ours),)
    for i in range(_MOST):
        for timer, seconds in timers[:: -1 if i % 2 else 1]:
            seconds.append(timer())
        certain = all(_certain(seconds) for _, seconds in timers)
        if not rival and certain:
            break
        slower = rival and min(ours) > min(*theirs, seen) * _CLEARLY
        if rival and (
            min(ours) > _HOPELESS * min(theirs) or (i + 1 >= (_FEW if slower else _ENOUGH) and (slower or certain))
        ):
            break
    if not rival:
        return Times(min(ours))
    return Times(min(ours), min(theirs), certain and min(ours) < min(*theirs, seen) * _CLEARLY)


def _certain(seconds: list[float]) -> bool:
    return sum(value <= _NEAR * min(seconds) for value in seconds) >= 3


def _timer(job: Job, tile: Tile, made: dict[tuple[Kernel, Tile], Timer]) -> Timer:
    """Compile a kernel, or find it among those made; it has been called once already."""
    key = (job.kernel, tile)
    if key not in made:
        made[key] = _compile(job, tile)
    return made[key]


def _compile(job: Job, tile: Tile) -> Timer:
    import numpy as np
    import tvm
    from tvm import te

    from fxopt.backends.tvm.registers import register_pipeline
    from fxopt.backends.tvm.runtime import use_threads
    from fxopt.backends.tvm.schedule import schedule_module

    tensors = job.kernel.tensors(tile)
    module = schedule_module(tvm.IRModule({"main": te.create_prim_func(tensors)}), job.processor)
    target = tvm.target.Target(job.processor.describe())
    library = tvm.compile(module, target=target, tir_pipeline=register_pipeline()).mod
    random = np.random.default_rng(0).standard_normal(4099)
    arrays = [
        tvm.runtime.tensor(np.resize(random, _shape(tensor)).astype(str(tensor.dtype.dtype))) for tensor in tensors
    ]
    device = tvm.cpu()
    use_threads(job.threads)
    library["main"](*arrays)  # machine code is made in the first call

    number = repeat = 0

    def timer() -> float:
        nonlocal number, repeat
        if not number:
            once = library.time_evaluator("main", device, number=1, repeat=3)(*arrays).min * 1000
            number = max(1, round(_CALL_MS / max(once, 1e-4)))
            repeat = min(100, max(1, round(_ROUND_MS / (once * number))))
        return float(library.time_evaluator("main", device, number=number, repeat=repeat)(*arrays).min)

    return timer


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"failed: {type(error).__name__}: {lines[-1] if lines else ''}"[:200]


def _die_with(parent: int) -> None:
    """End when the parent ends, even killed, and even while stopped; elsewhere than on Linux the closed connection does it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer


def _limit_memory() -> None:
    if sys.platform == "linux":
        import resource
        from pathlib import Path

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, taken + _MEMORY))
