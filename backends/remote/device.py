"""A device behind TVM's remote procedure calls."""

from __future__ import annotations

import itertools
import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxopt.backend import Runner
from fxopt.backend.kernel_time import KernelTime
from fxopt.backends.remote import link
from fxopt.backends.remote.address import Address
from fxopt.backends.remote.child import Child
from fxopt.backends.remote.message import pack, unpack
from fxopt.errors import DeviceError
from fxopt.runtime.device import Device
from fxopt.runtime.timing import Timing
from fxopt.support.scratch import scratch_folder

_CONNECTING = 90.0
"""Seconds to wait for a session: to import TVM, and for a device that is busy with another."""


class _Lost(Exception):
    """The session is gone: the device, its server, or what lies between."""


class RpcDevice(Device):
    """A device behind TVM's RPC: the one at ``rpc://HOST:PORT``, or any at ``tracker://HOST:PORT/KEY``.

    The connection is made when first needed. When it is lost it is made again, and what was asked is asked once more; a
    question without an answer within ``patience`` seconds counts as lost.
    """

    example = "rpc://192.168.1.20:9090 or tracker://192.168.1.2:9190/pi4"

    def __init__(self, address: str, *, patience: float = 600.0) -> None:
        super().__init__(address)
        Address.parse(address)
        self.patience = patience
        self._link: Child | None = None
        self._facts: dict[str, Any] | None = None
        self._opened: dict[str, tuple[Path, str]] = {}
        self._brought: set[str] = set()
        self._numbers = itertools.count()

    def facts(self) -> dict[str, Any]:
        """See :class:`fxopt.runtime.device.Device`. Raises DeviceError also where TVM there is of another version."""
        if self._facts is None:
            self._ask("facts")  # connects, which keeps them
        assert self._facts is not None
        return self._facts

    def open(self, folder: Path, backend: str) -> Runner:
        """See :class:`fxopt.runtime.device.Device`."""
        name = f"artifact{next(self._numbers)}"
        self._opened[name] = folder, backend
        runner = _Remote(self, name)
        weakref.finalize(runner, self._opened.pop, name, None)
        self._ask("facts", names=[name])
        return runner

    def interleave(
        self, runs: Mapping[Runner, Sequence[Any]], *, blocks: int = 11, block_ms: float = 40.0
    ) -> list[Timing]:
        """See :class:`fxopt.runtime.device.Device`."""
        names = [runner.name for runner in runs if isinstance(runner, _Remote)]
        arrays = [array for some in runs.values() for array in some]
        named = [[name, len(some)] for name, some in zip(names, runs.values(), strict=True)]
        values, _ = self._ask("times", arrays, names, runs=named, blocks=blocks, block_ms=block_ms)
        return [Timing(tuple(ms)) for ms in self._expect(values, "blocks_ms", list)]

    def peak_memory(self, runner: Runner) -> int | None:
        """See :class:`fxopt.runtime.device.Device`."""
        assert isinstance(runner, _Remote)
        values, _ = self._ask("peak_memory", names=[runner.name], name=runner.name)
        found: int | None = values.get("bytes")
        return found

    def profile(self, runner: Runner, arrays: Sequence[Any], calls: int) -> list[KernelTime]:
        """See :class:`fxopt.runtime.device.Device`."""
        assert isinstance(runner, _Remote)
        values, _ = self._ask("profile", arrays, [runner.name], name=runner.name, calls=calls)
        try:
            return [KernelTime(**row | {"nodes": tuple(row["nodes"])}) for row in self._expect(values, "kernels", list)]
        except (TypeError, KeyError) as error:
            raise DeviceError(f"the device at {self.address} answers 'profile' with something else: {error}") from None

    def serve(self, bind: str | None, say: Callable[[str], None]) -> None:
        """See :func:`fxopt.backends.remote.serve.serve`. Raises UsageError, DeviceError."""
        from fxopt.backends.remote.serve import serve

        _need_tvm()
        serve(Address.parse(self.address), bind, say)

    def run(self, name: str, arrays: list[Any]) -> list[Any]:
        """Run an artifact that :meth:`open` named."""
        return self._ask("run", arrays, [name], name=name)[1]

    def rest(self) -> None:
        """See :class:`fxopt.runtime.device.Device`."""
        if self._link is not None:
            self._link.kill()
            self._link = None
        self._brought.clear()

    def _ask(
        self, verb: str, arrays: Sequence[Any] = (), names: Sequence[str] = (), **values: Any
    ) -> tuple[dict[str, Any], list[Any]]:
        """Ask about artifacts, brought before; and once more over a new connection where the first was lost."""
        reason = ""
        for _ in range(2):
            try:
                if self._link is None:
                    self._connect(reason)
                for name in names:
                    self._bring(name)
                return self._request(verb, arrays, **values)
            except _Lost as lost:
                self.rest()
                reason = str(lost)
        raise DeviceError(
            f"the device at {self.address} was lost twice at the question {verb!r}: {reason}",
            way_out="did the model crash there, or take more memory than it has? its own log says more",
        )

    def _request(self, verb: str, arrays: Sequence[Any] = (), **values: Any) -> tuple[dict[str, Any], list[Any]]:
        data = self._talk("request", pack({"verb": verb, **values}, arrays))
        try:
            answer, found = unpack(data)
        except ValueError as error:
            raise DeviceError(f"the device at {self.address} answers {verb!r} with {error}") from None
        if "error" in answer:
            raise DeviceError(f"on the device at {self.address}: {answer['error']}")
        return answer, found

    def _connect(self, lost: str = "") -> None:
        _need_tvm()
        self._link = Child(link.main, self.address)
        try:
            self._hear(_CONNECTING)
        except _Lost as reason:
            self.rest()
            before = f" after it was lost ({lost})" if lost else ""
            raise DeviceError(f"no session with the device at {self.address}{before}: {reason}") from None
        self._same_tvm()

    def _same_tvm(self) -> None:
        import importlib.metadata

        facts, _ = self._request("facts")
        versions = self._expect(facts, "versions", dict)
        here, there = importlib.metadata.version("apache-tvm"), versions.get("apache-tvm")
        if here != there:
            self.rest()
            raise DeviceError(
                f"the device at {self.address} has TVM {there}, and this machine {here}: libraries of one do not "
                "run in the other",
                way_out=f"there: pip install apache-tvm=={here}",
            )
        self._facts = facts

    def _bring(self, name: str) -> None:
        if name in self._brought:
            return
        folder, backend = self._opened[name]
        if not folder.is_dir():
            raise DeviceError(f"{folder} is gone, and the device at {self.address} needs it again")
        with scratch_folder() as scratch:
            packed = shutil.make_archive(str(scratch / name), "zip", folder)
            self._talk("upload", (packed, f"{name}.zip"))
        gone = sorted(self._brought - set(self._opened))
        self._request("open", name=name, backend=backend, drop=gone)
        self._brought -= set(gone)
        self._brought.add(name)

    def _talk(self, verb: str, what: Any) -> bytes:
        assert self._link is not None
        try:
            self._link.connection.send((verb, what))
        except OSError:
            raise _Lost(self._link.end()) from None
        return self._hear(self.patience)

    def _hear(self, seconds: float) -> bytes:
        assert self._link is not None
        if not self._link.connection.poll(seconds):
            raise _Lost(f"no answer within {seconds:g} s; is it busy with another session? it has one at a time")
        try:
            word, what = self._link.connection.recv()
        except (EOFError, OSError):
            raise _Lost(f"its connection {self._link.end()}: {self._link.complaint()}") from None
        if word != "done":
            raise _Lost(what)
        found: bytes = what
        return found

    def _expect(self, values: dict[str, Any], key: str, kind: type) -> Any:
        if not isinstance(values.get(key), kind):
            raise DeviceError(f"the device at {self.address} answers without {key!r}; is fxopt there of this version?")
        return values[key]


def _need_tvm() -> None:
    from fxopt.backends.tvm.runtime import missing

    if reason := missing():
        raise DeviceError(f"a device is reached with TVM: {reason}")


@dataclass(frozen=True)
class _Remote:
    """Runs an artifact on its device."""

    device: RpcDevice
    name: str

    def __call__(self, arrays: list[Any]) -> list[Any]:
        return self.device.run(self.name, arrays)
