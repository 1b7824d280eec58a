"""Kernels to time that do what candidates should not. No torch here: the workers import this, and hide it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Twice:
    """A kernel that is fine."""

    size: int = 4096

    def tensors(self, tile):
        from tvm import te

        x = te.placeholder((self.size,), name="x")
        return [x, te.compute(x.shape, lambda i: x[i] + x[i], name="twice")]


@dataclass(frozen=True)
class Crashes(Twice):
    """Ends the process; with ``rows`` only for tiles of so many."""

    rows: int | None = None

    def tensors(self, tile):
        if self.rows in (None, tile.rows):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().tensors(tile)


@dataclass(frozen=True)
class Hangs(Twice):
    def tensors(self, tile):
        time.sleep(1000)


@dataclass(frozen=True)
class EatsMemory(Twice):
    def tensors(self, tile):
        import numpy as np

        kept = []
        while True:
            kept.append(np.empty(2**28, np.int8))


@dataclass(frozen=True)
class Fails(Twice):
    def tensors(self, tile):
        raise ValueError("no such tile")
