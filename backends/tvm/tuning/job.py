"""Messages between a search and the processes that compile and time its candidates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fxopt.backends.remote.address import Address
from fxopt.backends.tvm.machine.processor import Processor
from fxopt.backends.tvm.tiling.task import Kernel, Tile


@dataclass(frozen=True)
class Job:
    """A kernel to time in a tile, in turns with a ``rival``, which is None in the first trial.

    ``seen`` are the least seconds of the rival so far in this search; ``device`` is where to time it, None for this machine;
    it may be ``away`` for some seconds.
    """

    kernel: Kernel
    tile: Tile
    rival: Tile | None
    processor: Processor
    threads: int
    seen: float = math.inf
    device: Address | None = None
    away: float = 0.0


@dataclass(frozen=True)
class Times:
    """Seconds a call of the tile and of the rival, and whether the tile was clearly faster."""

    seconds: float
    rival: float | None = None
    won: bool = False


@dataclass(frozen=True)
class Lost:
    """The device was lost, and did not come back: not the job's fault."""

    reason: str


Timer = Callable[[], float]
"""Times a round of calls; returns the seconds of the fastest, as other load only adds to them."""


class LostError(Exception):
    """The device is lost, and does not come back."""


class KernelRunner(Protocol):
    """Where kernels run: on this machine, or on a device."""

    def timer(self, job: Job, tile: Tile) -> Timer:
        """Compile a kernel and load it; it has been called once already."""

    def renew(self) -> bool:
        """After an error: whether the device may have caused it and is back. Raises LostError if it does not come back."""
