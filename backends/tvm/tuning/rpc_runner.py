"""Kernels cross-compiled here, and timed on a device over TVM's RPC."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from fxopt.backends.remote.address import Address
from fxopt.backends.remote.connect import connect
from fxopt.backends.tvm.link import link
from fxopt.backends.tvm.runtime import set_threads
from fxopt.backends.tvm.tiling.task import Tile
from fxopt.backends.tvm.tuning.job import Job, LostError, Timer
from fxopt.backends.tvm.tuning.local_runner import compiled, timer_of
from fxopt.errors import DeviceError
from fxopt.support.scratch import scratch_folder
from fxopt.target.cross_compiler import cross_compiler

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import RPCSession


class RpcRunner:
    """Runs kernels on a device, or on any free one behind a tracker; the session is opened on first use.

    The device may be ``away`` for some seconds, to be started again.
    """

    def __init__(self, address: Address, away: float) -> None:
        self._address, self._away = address, away
        self._session: RPCSession | None = None
        self._numbers = itertools.count()

    def timer(self, job: Job, tile: Tile) -> Timer:
        """Compile a kernel, upload it and call it once. Raises LostError where there is no device."""
        executable, tensors = compiled(job, tile)
        session = self._connect() if self._session is None else self._session
        name = f"kernel{next(self._numbers)}.so"
        with scratch_folder() as folder:
            path = folder / name
            link(executable, path, cross_compiler(job.processor.triple))
            session.upload(str(path))
        library = session.load_module(name)
        session.remove(name)
        set_threads(session.get_function, job.threads)
        return timer_of(library, tensors, session.cpu())

    def renew(self) -> bool:
        """Open another session: the device may have been lost, or the kernel may have ended its process."""
        self._session = None
        self._connect()
        return True

    def _connect(self) -> RPCSession:
        end = time.monotonic() + self._away
        while True:
            try:
                self._session = connect(self._address)
                return self._session
            except (DeviceError, RuntimeError) as error:
                if time.monotonic() > end:
                    raise LostError(str(error)) from None
            time.sleep(1.0)
