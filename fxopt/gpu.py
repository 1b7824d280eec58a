"""The NVIDIA GPU of this machine as a target, as its driver's own program tells of it."""

from __future__ import annotations

import functools
import subprocess
from dataclasses import replace

from fxopt.errors import UsageError
from fxopt.target import Target, host

_QUERY = ("nvidia-smi", "--query-gpu=compute_cap,memory.total", "--format=csv,noheader,nounits")


@functools.cache
def nvidia() -> Target | None:
    """This machine with its first GPU, whose memory counts; None without one."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=20, check=False)
        capability, mebibytes = done.stdout.splitlines()[0].split(", ")
        memory = int(mebibytes) * 2**20
    except (OSError, subprocess.TimeoutExpired, IndexError, ValueError):
        return None
    features = host().features | {"cuda"}
    return replace(host(), name="cuda", cpu=f"sm_{capability.replace('.', '')}", features=features, memory=memory)


def cuda() -> Target:
    """The NVIDIA GPU of this machine. Raises UsageError where there is none."""
    if (found := nvidia()) is None:
        raise UsageError("there is no NVIDIA GPU here that nvidia-smi knows; build on the machine that has one")
    return found
