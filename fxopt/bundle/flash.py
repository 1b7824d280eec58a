"""Whether a bundle, unpacked, fits into the flash of its target."""

from __future__ import annotations

import json
import tarfile
import zlib
from pathlib import Path

from fxopt.errors import UsageError
from fxopt.runtime.staging import MANIFEST
from fxopt.target import Target


def too_large(files: dict[str, int], target: Target) -> str | None:
    """By how much files of so many bytes are larger than the flash; None if they are not, or it is not known."""
    total = sum(files.values())
    if target.flash is None or total <= target.flash:
        return None
    return (
        f"the bundle is {kilobytes(total)} kB unpacked, and {target.name} has {kilobytes(target.flash)} kB of flash: "
        f"{kilobytes(total - target.flash)} kB too large"
    )


def is_too_large(path: Path) -> bool:
    """Whether a file is a bundle that is larger than the flash of its own target."""
    try:
        with tarfile.open(path) as tar:
            manifest = tar.extractfile(f"model/{MANIFEST}")
            target = Target.of(json.load(manifest)["target"]) if manifest else None
            return target is not None and too_large({file.name: file.size for file in tar}, target) is not None
    except (
        OSError,
        tarfile.TarError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        UsageError,
        zlib.error,
    ):
        return False


def kilobytes(size: int) -> str:
    """Bytes as thousands of them."""
    return f"{size / 1000:,.1f}"
