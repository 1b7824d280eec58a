"""A target: facts about the device that a model is built for. ``host`` is detected; others are TOML files."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, Lt

from fxopt.errors import OptionError, UnknownNameError, UsageError
from fxopt.support.options import check_option

# Names as Linux writes them in /proc/cpuinfo, and as users write them in a descriptor.
X86 = {
    "avx2": "avx2", "fma": "fma", "avx512f": "avx512f", "avx512_vnni": "avx512-vnni", "avx_vnni": "avx-vnni",
    "amx_tile": "amx-tile", "amx_int8": "amx-int8", "amx_bf16": "amx-bf16", "avx512_bf16": "avx512-bf16",
}  # fmt: skip
ARM = {"asimd": "neon", "asimddp": "neon-dotprod", "i8mm": "neon-i8mm", "bf16": "neon-bf16", "sve": "sve"}
FEATURES = frozenset({*X86.values(), *ARM.values(), "rvv", "simd128", "cuda"})
"""Every feature that passes and backends may check; the last are the vectors of RISC-V and of WebAssembly, and a GPU."""


@dataclass(frozen=True)
class Target:
    """A device. ``memory``, for running, and ``flash``, for files, are in bytes, None where there is no limit.

    ``features`` are named like ``avx512-vnni``; ``channel_multiple`` is what its kernels round numbers of channels up to,
    None to measure it or take the default for its features; ``address`` is None for this machine.
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
    def is_bare_metal(self) -> bool:
        """Whether the device has no operating system, as microcontrollers."""
        return "-none-" in self.triple

    @property
    def int8_saturates(self) -> bool:
        """Whether int8 kernels add pairs of u8·s8 products in 16 bits, which overflow: x86 before VNNI."""
        return self.is_x86 and not self.features & {"avx512-vnni", "avx-vnni", "amx-int8"}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and TOML hold them."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in values.items() if v is not None}

    @classmethod
    def of(cls, values: dict[str, Any], where: str = "target") -> Target:
        """Back from :meth:`to_dict`, whoever wrote it.

        Raises UsageError for a key that is missing, UnknownNameError for a key or a feature, OptionError for a value.
        """
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise UnknownNameError(f"key in {where}", key, known)
        checked = {key: check_option(f"{where}: {key}", _HINTS[key], value) for key, value in values.items()}
        for key, (pattern, what) in _PATTERNS.items():
            if key in checked and not re.fullmatch(pattern, checked[key]):
                raise OptionError(f"{where}: {key}: takes {what}, got {checked[key]!r}")
        for key in ("name", "triple"):
            if key not in checked:
                raise UsageError(f"{where}: the key {key!r} is missing" + _EXAMPLES.get(key, ""))
        for feature in checked.get("features", ()):
            if feature not in FEATURES:
                raise UnknownNameError(f"feature in {where}", feature, FEATURES)
        checked["features"] = frozenset(checked.get("features", ()))
        return cls(**checked)

    @property
    def architecture(self) -> str:
        """The first word of the triple: ``x86_64``, ``aarch64`` …"""
        return self.triple.split("-")[0]


_Count = Annotated[int, Gt(0), Lt(2**63)]
_HINTS: dict[str, Any] = {
    "name": str, "triple": str, "cpu": str, "features": list[str], "cores": _Count, "memory": _Count, "flash": _Count,
    "channel_multiple": _Count, "address": str,
}  # fmt: skip
_PATTERNS = {
    # of a folder, too
    "name": (r"[^\x00-\x1f\x7f/.][^\x00-\x1f\x7f/]{0,99}", "up to 100 characters without '/', the first not '.'"),
    # part of the name of a compiler
    "triple": (r"(?=.{1,100}\Z)[\w.]+(-[\w.]+)*", "up to 100 letters, digits, '_' and '.', in parts with '-' between"),
    "cpu": (r"[\w.+-]{1,100}", "up to 100 letters, digits, '_', '.', '+' and '-'"),
    "address": (r"[^\x00-\x20\x7f]{1,300}", "up to 300 characters without spaces"),
}
"""What a text must match, and that in words."""
_EXAMPLES = {"triple": ', e.g. triple = "aarch64-linux-gnu"'}


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
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not TOML, not UTF-8, or too long a number
        raise UsageError(f"target file {path}: {error}") from None
    return Target.of({"name": path.stem, **values}, f"target file {path}")
