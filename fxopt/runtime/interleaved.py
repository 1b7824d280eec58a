"""Artifacts measured on the machine or device where they run: times side by side, and memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from fxopt.errors import UsageError
from fxopt.runtime.artifact import Artifact
from fxopt.runtime.isolated import peak_memory
from fxopt.runtime.timing import Timing, interleave
from fxopt.support.observed import is_volatile

Call = tuple[Artifact, tuple[Any, ...], dict[str, Any]]
"""An artifact with the arguments that it is called with."""


def time_artifacts(
    calls: Mapping[str, Call],
    others: Mapping[str, Callable[[], object]] | None = None,
    *,
    blocks: int = 11,
    block_ms: float = 40.0,
) -> dict[str, Timing]:
    """Time artifacts in one run by :func:`fxopt.runtime.timing.interleave`, on this machine together with ``others``.

    Raises UsageError where they are not all on one machine, DeviceError where their device fails.
    """
    is_volatile("it times programs")
    places = {artifact.device for artifact, _, _ in calls.values()}
    if len(places) != 1:
        raise UsageError("artifacts that run at different places cannot be timed side by side")
    (device,) = places
    if device is None:
        here: dict[str, Callable[[], object]] = {
            name: functools.partial(artifact, *args, **kwargs) for name, (artifact, args, kwargs) in calls.items()
        }
        return interleave({**(others or {}), **here}, blocks=blocks, block_ms=block_ms)
    runs = {artifact.runner: artifact.arrays(*args, **kwargs) for artifact, args, kwargs in calls.values()}
    return dict(zip(calls, device.interleave(runs, blocks=blocks, block_ms=block_ms), strict=True))


def peak_of(artifact: Artifact) -> int | None:
    """Peak resident bytes of a fresh process that loads an artifact and runs it; None if it fails. Raises DeviceError."""
    device = artifact.device
    return device.peak_memory(artifact.runner) if device else peak_memory(artifact.folder)
