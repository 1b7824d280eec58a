"""A device, reached at an address: artifacts built for it are run, compared and timed there.

A kind of device is registered under the scheme of its addresses: ``rpc`` of ``rpc://192.168.1.20:9090``.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fxopt.backend import Runner
from fxopt.backend.kernel_time import KernelTime
from fxopt.errors import DeviceError, UsageError
from fxopt.runtime.timing import Timing
from fxopt.target import Target
from fxopt.target.detect import not_here


class Device(abc.ABC):
    """A device at ``address``. Every method raises DeviceError where it cannot be reached, or answers with something else."""

    example: ClassVar[str] = ""
    """An address of this kind, for messages and listings."""

    def __init__(self, address: str) -> None:
        self.address = address

    @abc.abstractmethod
    def facts(self) -> dict[str, Any]:
        """``triple``, ``features``, ``cores``, ``memory`` and ``free_memory`` in bytes, ``versions`` of what is installed there.

        ``emulated``: it is an emulator on another machine, whose results are valid, but not its times.
        """

    @abc.abstractmethod
    def open(self, folder: Path, backend: str) -> Runner:
        """Upload an artifact and load it by its backend with these options; return its runner, see ``Backend.load``."""

    @abc.abstractmethod
    def interleave(
        self, runs: Mapping[Runner, Sequence[Any]], *, blocks: int = 11, block_ms: float = 40.0
    ) -> list[Timing]:
        """Time runners of :meth:`open` side by side, each on its arrays; see :func:`fxopt.runtime.timing.interleave`."""

    @abc.abstractmethod
    def peak_memory(self, runner: Runner) -> int | None:
        """Peak resident bytes of a process there that loads one artifact and runs it; None if unknown."""

    @abc.abstractmethod
    def profile(self, runner: Runner, arrays: Sequence[Any], calls: int) -> list[KernelTime]:
        """Time of each kernel of a runner of :meth:`open`; see :meth:`fxopt.backend.Backend.profile`."""

    @abc.abstractmethod
    def rest(self) -> None:
        """Close the session, so that others can use the device; it is reopened on next use."""

    @abc.abstractmethod
    def serve(self, bind: str | None, say: Callable[[str], None]) -> None:
        """Let this machine be the device at the address, listening at ``bind`` if given, until it is stopped."""

    def check(self, target: Target) -> None:
        """Raise DeviceError unless the device can run what is built for ``target``."""
        facts = self.facts()
        built, there = target.architecture, facts["triple"].split("-")[0]
        lacking = sorted(target.features - set(facts["features"]))
        if built != there or lacking:
            what = f"{', '.join(lacking)}, which it lacks" if built == there else f"{built}, and it is {there}"
            has = f"{there} with {' '.join(facts['features']) or 'no features'}"
            raise DeviceError(
                f"the device at {self.address} is {has}; the target {target.name!r} is built for {what}",
                way_out="take a target that describes it, or give another address",
            )


@functools.cache
def find_device(address: str) -> Device:
    """The device at an address, the same one for the same address. Raises UsageError for an address of no known form."""
    from fxopt import registry

    scheme, found, _ = address.partition("://")
    if not found or scheme not in registry.names("device"):
        known = ", ".join(dict.fromkeys(registry.get("device", name).example for name in registry.names("device")))
        raise UsageError(f"{address!r} is no address of a device; addresses are like {known}")
    device: Device = registry.get("device", scheme)(address)
    return device


def cannot_time(target: Target) -> str | None:
    """Why latency cannot be measured for a target; None where it is this machine, or a real device with an address."""
    if (device := device_of(target)) is None:
        reason = not_here(target)
        return f"{target.name!r} is not this machine: {reason}" if reason else None
    return (
        f"the device at {device.address} is emulated: what it takes says nothing"
        if device.facts()["emulated"]
        else None
    )


def device_of(target: Target) -> Device | None:
    """The device at a target's address, checked against the target; None for a target without address. Raises DeviceError."""
    if target.address is None:
        return None
    device = find_device(target.address)
    device.check(target)
    return device
