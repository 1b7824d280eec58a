"""This machine as a target: its processor by the C library and Linux, its GPU by nvidia-smi."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from fxopt.errors import UsageError
from fxopt.target.target import ARM, X86, Target

_ARM_BITS = {"asimd": (16, 1), "asimddp": (16, 20), "sve": (16, 22), "i8mm": (26, 13), "bf16": (26, 14)}
"""The word, AT_HWCAP or AT_HWCAP2, and the bit in it, of Linux on aarch64."""


_X86_BITS = {
    "fma": (0, 6, 12), "avx2": (1, 5, 5), "avx512f": (1, 5, 16), "avx512_vnni": (1, 6, 11),
    "amx_bf16": (1, 7, 22), "amx_int8": (1, 7, 25), "avx_vnni": (6, 4, 4), "avx512_bf16": (6, 4, 5),
}  # fmt: skip
"""The leaf, the word of its ``struct cpuid_feature``, and the bit in it, of glibc's <sys/platform/x86.h>; words 4 to 7 are
features that processor and system support, 0 to 3 those of the processor alone."""


@functools.cache
def host() -> Target:
    """This machine, as detected."""
    machine = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    system = {"linux": "linux-gnu", "darwin": "apple-darwin", "windows": "pc-windows-msvc"}
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Target(
        name="host",
        triple=f"{machine}-{system.get(platform.system().lower(), platform.system().lower())}",
        features=_features(machine),
        cores=usable_cores(),
        memory=memory,
    )


def usable_cores() -> int:
    """How many cores this process may run on, by its affinity."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def not_here(target: Target) -> str | None:
    """Why measurements on this machine do not apply to a target; None where the target is this machine."""

    here = ((nvidia() if "cuda" in target.features else None) or host()).to_dict()
    there = target.to_dict()
    for key in ("triple", "features", "cores"):
        if there[key] != here[key]:
            return f"its {key}: {_shown(there[key])}; here: {_shown(here[key])}"
    return None


def _shown(value: Any) -> str:
    return " ".join(value) or "none" if isinstance(value, list) else str(value)


def features_in(cpuinfo: str) -> frozenset[str]:
    """Features of an x86-64 or ARM processor from the text of Linux's /proc/cpuinfo, by the names that targets use.

    For the target file of a device of which only that text is at hand.
    """
    found: set[str] = set()
    for line in cpuinfo.splitlines():
        key, _, listed = line.partition(":")
        names = {"flags": X86, "Features": ARM}.get(key.strip(), {})
        found |= {names[flag] for flag in listed.split() if flag in names}
    return frozenset(found)


def _features(machine: str) -> frozenset[str]:
    flags = _hardware_flags(machine)
    if flags is not None:
        return frozenset(label for flag, label in (X86 | ARM).items() if flag in flags)
    try:
        return features_in(Path("/proc/cpuinfo").read_text())
    except OSError:
        return frozenset()


def _hardware_flags(machine: str) -> set[str] | None:
    """Linux's flags of the features that targets use, by the C library: under an emulator, /proc/cpuinfo shows the real machine.

    None where the C library has no such call: on x86-64 it is glibc's, since 2.33.
    """
    import ctypes

    if platform.system() != "Linux":
        return None
    library = ctypes.CDLL(None)
    if machine == "aarch64":
        ask = library.getauxval
        ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
        return {flag for flag, (word, bit) in _ARM_BITS.items() if ask(word) >> bit & 1}
    if machine != "x86_64" or not hasattr(library, "__x86_get_cpuid_feature_leaf"):
        return None
    ask = library["__x86_get_cpuid_feature_leaf"]
    ask.restype, ask.argtypes = ctypes.POINTER(ctypes.c_uint32 * 8), [ctypes.c_uint]
    return {flag for flag, (leaf, word, bit) in _X86_BITS.items() if ask(leaf).contents[word] >> bit & 1}


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
    """The NVIDIA GPU of this machine.

    Raises UsageError where there is none.
    """
    if (found := nvidia()) is None:
        raise UsageError("there is no NVIDIA GPU here that nvidia-smi knows; build on the machine that has one")
    return found
