"""The process that compiles and times kernels; see :mod:`fxopt.backends.remote.child` for how it is started.

It is kept for all trials, since importing TVM takes seconds, and hides torch from it, which would take longer. A kernel is
timed in this process (local_runner.py), or on a device (rpc_runner.py). A trial that ends the process, by a signal or by
exceeding its memory limit, costs that trial: the parent starts another process.

Messages over the connection, all pickled: a :class:`Job` is received, and ``"compiled"`` or a reason sent; then ``"go"`` is
received, once no other worker is timing on this machine, and a :class:`Times` sent, or :class:`Lost` where the device is lost.
"""

from __future__ import annotations

import math
import sys
from multiprocessing.connection import Connection

from fxopt.backends.remote.child import hide_torch, parents_end
from fxopt.backends.tvm.tiling.task import Kernel, Tile
from fxopt.backends.tvm.tuning.job import Job, KernelRunner, Lost, LostError, Timer, Times
from fxopt.errors import last_line

_MEMORY = 3 * 2**30
"""Bytes that a trial may take in addition to TVM itself; without a limit, one candidate that hung took 10 GB."""
_FEW, _ENOUGH, _MOST = 2, 5, 40
"""Rounds for a tile that is clearly slower than its rival, for one that may be faster, and at most, until the minima are
certain: a round is five milliseconds, so that a trial is timed for 20 to 400."""
_NEAR, _CLEARLY, _HOPELESS = 1.03, 0.98, 4.0
"""Ratios at which a round counts as near the minimum, a tile as faster, and a tile as too slow to be called again.

Margins over the noise of minima, chosen by hand; time a tile against itself to see how large they must be."""


def main() -> None:
    """Serve jobs until the parent closes the connection."""
    connection, _ = parents_end()
    hide_torch()
    from fxopt.backends.tvm.runtime import allow_tiles, need_tvm
    from fxopt.backends.tvm.tuning.local_runner import LocalRunner
    from fxopt.backends.tvm.tuning.rpc_runner import RpcRunner

    need_tvm()
    allow_tiles()
    _limit_memory()
    bench = Bench(connection)
    with connection:
        connection.send("ready")
        while True:
            try:
                job = connection.recv()
                if bench.runner is None:
                    bench.runner = LocalRunner() if job.device is None else RpcRunner(job.device, job.away)
                connection.send(bench.answer(job))
            except EOFError:
                return


class Bench:
    """Answers jobs, and keeps the kernels that the next one is likely to need."""

    def __init__(self, connection: Connection) -> None:
        self.runner: KernelRunner | None = None
        self._connection = connection
        self._made: dict[tuple[Kernel, Tile], Timer] = {}
        self._told = False

    def answer(self, job: Job) -> Times | Lost | str:
        """The times of a job, or why there are none; one whose device was lost is tried once more."""
        assert self.runner is not None
        self._told, reason = False, ""
        for _ in range(2):
            try:
                return self._times(job, self.runner)
            except EOFError:
                raise
            except LostError as error:
                return Lost(str(error))
            except Exception as error:
                self._made.clear()
                reason = _reason(error)
            try:
                if not self.runner.renew():
                    break
            except LostError as error:
                return Lost(str(error))
        return reason

    def _times(self, job: Job, runner: KernelRunner) -> Times:
        rival = self._timer(job, job.rival, runner) if job.rival else None
        mine = self._timer(job, job.tile, runner)
        if not self._told:
            self._told = True
            self._connection.send("compiled")
            self._connection.recv()
        times = compare(mine, rival, job.seen)
        kept = (job.tile, job.rival)
        self._made = {key: t for key, t in self._made.items() if key[0] != job.kernel or key[1] in kept}
        return times

    def _timer(self, job: Job, tile: Tile, runner: KernelRunner) -> Timer:
        key = (job.kernel, tile)
        if key not in self._made:
            self._made[key] = runner.timer(job, tile)
        return self._made[key]


def compare(mine: Timer, rival: Timer | None, seen: float = math.inf) -> Times:
    """Time a tile in turns with its rival. It wins if its minimum is 2 % below that of the rival, in this trial and before.

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


def _reason(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {last_line(error)}"[:200]


def _limit_memory() -> None:
    if sys.platform == "linux":
        import resource
        from pathlib import Path

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, taken + _MEMORY))
