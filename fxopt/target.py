"""A target: facts about the device that a model is built for. ``host`` is detected; others are TOML files."""

from __future__ import annotations

import functools
import os
import platform
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt

from fxopt.errors import UnknownNameError, UsageError
from fxopt.options import check_option

# Names as Linux writes them in /proc/cpuinfo, and as users write them in a descriptor.
_X86 = {
    "avx2": "avx2", "fma": "fma", "avx512f": "avx512f", "avx512_vnni": "avx512-vnni", "avx_vnni": "avx-vnni",
    "amx_int8": "amx-int8", "amx_bf16": "amx-bf16", "avx512_bf16": "avx512-bf16",
}  # fmt: skip
_ARM = {"asimd": "neon", "asimddp": "neon-dotprod", "i8mm": "neon-i8mm", "bf16": "neon-bf16", "sve": "sve"}
_ARM_BITS = {"asimd": (16, 1), "asimddp": (16, 20), "sve": (16, 22), "i8mm": (26, 13), "bf16": (26, 14)}
"""The word, AT_HWCAP or AT_HWCAP2, and the bit in it, of Linux on aarch64."""
_X86_BITS = {
    "fma": (0, 6, 12), "avx2": (1, 5, 5), "avx512f": (1, 5, 16), "avx512_vnni": (1, 6, 11),
    "amx_bf16": (1, 7, 22), "amx_int8": (1, 7, 25), "avx_vnni": (6, 4, 4), "avx512_bf16": (6, 4, 5),
}  # fmt: skip
"""The leaf, the word of its ``struct cpuid_feature``, and the bit in it, of glibc's <sys/platform/x86.h>; words 4 to 7 are
what processor and system support, 0 to 3 what the processor alone does."""
FEATURES = frozenset({*_X86.values(), *_ARM.values(), "rvv", "simd128", "cuda"})
"""Every feature that passes and backends may look for; the last are the vectors of RISC-V and of WebAssembly, and a GPU."""


@dataclass(frozen=True)
class Target:
    """A device. ``memory``, for running, and ``flash``, for files, are in bytes, None where there is no limit to hold.

    ``features`` are named like ``avx512-vnni``; ``channel_multiple`` is what its kernels round numbers of channels up to,
    None for what is measured or the usual one for its features; ``address`` is None for this machine.
    """

    name: str
    triple: str
    cpu: str = "generic"
    features: frozenset[str] = frozenset()
    cores: int = 1
    memory: int | None = None
    flash: int | None = None
    channel_multiple: int | None = None
    address: str | None = None

    @property
    def is_x86(self) -> bool:
        """Whether the device has x86-64 instructions."""
        return self.triple.startswith("x86_64")

    @property
    def int8_saturates(self) -> bool:
        """Whether int8 kernels add pairs of u8·s8 products in 16 bits, which overflow: x86 before VNNI."""
        return self.is_x86 and not self.features & {"avx512-vnni", "avx-vnni", "amx-int8"}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and TOML hold them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in values.items() if v is not None}

    @classmethod
    def of(cls, values: dict[str, Any]) -> Target:
        """Back from :meth:`to_dict`."""
        return cls(**{**values, "features": frozenset(values["features"])})

    @property
    def architecture(self) -> str:
        """The first word of the triple: ``x86_64``, ``aarch64`` …"""
        return self.triple.split("-")[0]


@functools.cache
def host() -> Target:
    """The machine this runs on, as detected."""
    machine = platform.machine().lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    system = {"linux": "linux-gnu", "darwin": "apple-darwin", "windows": "pc-windows-msvc"}
    found = _cpu_flags(machine)
    names = _X86 if machine == "x86_64" else _ARM
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Target(
        name="host",
        triple=f"{machine}-{system.get(platform.system().lower(), platform.system().lower())}",
        features=frozenset(label for flag, label in names.items() if flag in found),
        cores=cores,
        memory=memory,
    )


def not_here(target: Target) -> str | None:
    """Why what is measured on this machine says nothing about a target; None where the target is this machine."""
    from fxopt.gpu import nvidia

    here = ((nvidia() if "cuda" in target.features else None) or host()).to_dict()
    there = target.to_dict()
    for key in ("triple", "features", "cores"):
        if there[key] != here[key]:
            return f"its {key}: {_shown(there[key])}; here: {_shown(here[key])}"
    return None


def _shown(value: Any) -> str:
    return " ".join(value) or "none" if isinstance(value, list) else str(value)


def _cpu_flags(machine: str) -> set[str]:
    """The words that Linux has for what the processor can do."""
    told = _hardware_flags(machine)
    return _listed_flags(machine) if told is None else told


def _listed_flags(machine: str) -> set[str]:
    """All words that /proc/cpuinfo lists."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    words = "flags" if machine == "x86_64" else "features"
    return set().union(*(line.split(":")[1].split() for line in lines if line.lower().startswith(words)))


def _hardware_flags(machine: str) -> set[str] | None:
    """The words that targets know, as this process is told: in an emulator, /proc/cpuinfo is that of the real machine.

    None where the C library cannot be asked: for x86-64 it is glibc, since 2.33.
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


def find_target(spec: str) -> Target:
    """A registered target, or one from a TOML file. Raises UnknownNameError and UsageError."""
    if spec.endswith(".toml"):
        return read_target(Path(spec))
    from fxopt import registry

    found = registry.get("target", spec)
    return found if isinstance(found, Target) else found()


def read_target(path: Path) -> Target:
    """The target of a TOML file. Raises UsageError, UnknownNameError for a key or a feature, OptionError for a value."""
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"target file {path}: {error}") from None
    known = [f.name for f in fields(Target)]
    for key in values:
        if key not in known:
            raise UnknownNameError(f"key in {path}", key, known)
    hints: dict[str, Any] = {
        "name": str, "triple": str, "cpu": str, "features": list[str], "cores": Annotated[int, Gt(0)],
        "memory": Annotated[int, Gt(0)], "flash": Annotated[int, Gt(0)], "channel_multiple": Annotated[int, Gt(0)],
        "address": str,
    }  # fmt: skip
    checked = {key: check_option(f"{path}: {key}", hints[key], value) for key, value in values.items()}
    if "triple" not in checked:
        raise UsageError(f"target file {path}: the key 'triple' is missing, e.g. triple = \"aarch64-linux-gnu\"")
    for feature in checked.get("features", ()):
        if feature not in FEATURES:
            raise UnknownNameError(f"feature in {path}", feature, FEATURES)
    checked["features"] = frozenset(checked.get("features", ()))
    return Target(**{"name": path.stem, **checked})
