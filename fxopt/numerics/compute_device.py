"""The device that a build trains, calibrates and evaluates on: found by name, or by what there is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from fxopt.errors import ComputeDeviceError, FxoptError, ResourceError, UnknownNameError, text_of

NAMES = ("auto", "cpu", "cuda", "mps", "xpu")
"""Kinds of devices; ``cuda:1`` is the second of its kind."""
_KNOWN = f"known are {', '.join(NAMES)}, and cuda:1 for the second of several; see docs/gpu.md"


def find_compute_device(name: str) -> str:
    """The device as torch spells it, ``cpu`` or ``cuda:0``; of several processes started by torchrun, the one of this process.

    ``auto`` is the accelerator that torch finds, or else the processor. Raises UnknownNameError for a name that is none, and
    ComputeDeviceError for a device that is not there.
    """
    kind, colon, number = name.partition(":")
    own = torch._C._get_privateuse1_backend_name()  # a plugin's, where one is loaded
    if kind not in (*NAMES, own) or (colon and not number.isdecimal()) or (colon and kind in ("auto", "cpu")):
        raise UnknownNameError("device to compute on", name, [*NAMES, "cuda:1"], hint=_KNOWN)
    there = _accelerator()
    if kind == "cpu" or (kind == "auto" and there is None):
        return "cpu"
    if kind not in ("auto", there):
        raise ComputeDeviceError(
            f"there is no device {name!r} to compute on",
            expected=f"a torch that was built for {kind}, and such a device",
            got=_present(there),
            way_out="take device='auto', or install torch for this machine's accelerator: https://pytorch.org",
        )
    assert there is not None
    count = torch.accelerator.device_count()
    index = int(number) if colon else int(os.environ.get("LOCAL_RANK", "0"))
    if index >= count:
        raise ComputeDeviceError(
            f"there is no device {there}:{index} to compute on",
            expected=f"at least {index + 1} devices of the kind {there}",
            got=_present(there),
            way_out=f"take one of {', '.join(f'{there}:{i}' for i in range(count))}",
        )
    if there == "cuda":  # read when its library is first used; without it sums may differ from run to run
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return f"{there}:{index}"


def _accelerator() -> str | None:
    if not torch.accelerator.is_available() or not torch.accelerator.device_count():
        return None
    found = torch.accelerator.current_accelerator()
    return None if found is None else found.type


def _present(there: str | None) -> str:
    build = f"torch {torch.__version__}"
    return (
        f"the processor alone, with {build}"
        if there is None
        else f"{torch.accelerator.device_count()} x {there}, with {build}"
    )


def device_key(device: str) -> str:
    """What results depend on besides the code: the kind and model of a device; its number does not matter."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return kind
    module = torch.get_device_module(kind)
    model = module.get_device_name(device) if hasattr(module, "get_device_name") else kind
    return f"{kind} {model} {torch.version.cuda or ''}"


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers of the CPU and the device from a seed inside; afterwards both go on as before."""
    before = random_state(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        set_random_state(device, before)


def random_state(device: torch.device) -> list[torch.Tensor]:
    """The state of the CPU's random numbers, and that of the device's."""
    own = [] if device.type == "cpu" else [torch.get_device_module(device.type).get_rng_state(device)]
    return [torch.get_rng_state(), *own]


def set_random_state(device: torch.device, states: list[torch.Tensor]) -> None:
    """Go on from a state of :func:`random_state`, of this device or of the CPU alone."""
    torch.set_rng_state(states[0])
    if device.type != "cpu" and len(states) > 1:
        torch.get_device_module(device.type).set_rng_state(states[1], device)


def failure_of(error: BaseException, where: str, again: str = "run this again") -> FxoptError:
    """The error of a device whose memory is full, or that failed; ``again`` is how to go on with one that failed."""
    first = text_of(error).partition("\n")[0]
    if isinstance(error, torch.OutOfMemoryError):
        return ResourceError(
            f"{where}: the device's memory is full",
            got=first,
            way_out="end what else runs there, take smaller batches, fewer images or samples, or device='cpu'",
        )
    return ComputeDeviceError(
        f"{where}: the device failed",
        got=first,
        way_out=f"see whether it is there, as by nvidia-smi for cuda, and {again}",
    )
