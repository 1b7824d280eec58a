"""What a device answers: facts about it, and artifacts loaded, run and timed by the same code that does it at home."""

from __future__ import annotations

import functools
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fxopt.backend import find_backend
from fxopt.backends.remote.message import pack, unpack
from fxopt.errors import FxoptError
from fxopt.runtime.artifact import Artifact, load_for
from fxopt.runtime.isolated import peak_memory
from fxopt.runtime.read_manifest import read_manifest
from fxopt.runtime.timing import interleave
from fxopt.support.versions import versions
from fxopt.target.detect import host

REQUEST = "fxopt.runtime.device.request"
"""The name under which TVM's server finds :func:`answer`."""
_opened: dict[str, Artifact] = {}

Answer = tuple[dict[str, Any], list[Any]]


def register() -> None:
    """Have TVM's server answer requests, in each process that it forks for a session."""
    import tvm_ffi

    tvm_ffi.register_global_func(REQUEST, lambda message: bytearray(answer(bytes(message))), override=True)


def answer(message: bytes) -> bytes:
    """Do what a message asks; an error is an answer too. Files that it names are in the folder of the session."""
    try:
        values, arrays = unpack(message)
        return pack(*VERBS[values.pop("verb")](arrays, **values))
    except FxoptError as error:
        return pack({"error": str(error)})
    except Exception as error:
        return pack({"error": f"{type(error).__name__}: {error}"})


def _facts(_: list[Any]) -> Answer:
    return host().to_dict() | {"free_memory": _free(), "emulated": _emulated(), "versions": versions()}, []


def _open(_: list[Any], name: str, backend: str, drop: list[str]) -> Answer:
    """Unpack an artifact that was brought as a zip file, and load it by a backend with these options; forget others."""
    for other in drop:
        shutil.rmtree(_opened.pop(other).folder, ignore_errors=True)
    folder = Path(name)
    with zipfile.ZipFile(f"{name}.zip") as packed:
        packed.extractall(folder)
    os.remove(f"{name}.zip")
    target = replace(read_manifest(folder).target, address=None)
    _opened[name] = load_for(folder, target, find_backend(backend))
    return {}, []


def _run(arrays: list[Any], name: str) -> Answer:
    return {}, _opened[name].runner(arrays)


def _times(arrays: list[Any], runs: list[list[Any]], blocks: int, block_ms: float) -> Answer:
    """Time artifacts side by side; each of ``runs`` has a name and how many of the arrays are its own."""
    calls: dict[str, Callable[[], object]] = {}
    for i, (name, count) in enumerate(runs):
        own, arrays = arrays[:count], arrays[count:]
        calls[str(i)] = functools.partial(_opened[name].runner, own)
    return {"blocks_ms": [list(t.blocks_ms) for t in interleave(calls, blocks=blocks, block_ms=block_ms).values()]}, []


def _peak_memory(_: list[Any], name: str) -> Answer:
    return {"bytes": peak_memory(_opened[name].folder.absolute())}, []


def _profile(arrays: list[Any], name: str, calls: int) -> Answer:
    opened = _opened[name]
    kernels = find_backend(opened.manifest.backend).profile(opened.folder.absolute(), opened.manifest, arrays, calls)
    return {"kernels": [vars(kernel) for kernel in kernels]}, []


VERBS: dict[str, Callable[..., Answer]] = {
    "facts": _facts, "open": _open, "run": _run, "times": _times, "peak_memory": _peak_memory, "profile": _profile,
}  # fmt: skip
"""What a device can be asked: functions of arrays, and of the values of a message by name."""


def _free() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _emulated() -> bool:
    """Whether qemu runs this process: it shows a process its own command line without itself, but not that of the parent."""
    try:
        command = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return False
    return Path(command.decode(errors="replace")).name.startswith("qemu-")
