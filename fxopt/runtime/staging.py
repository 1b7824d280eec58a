"""A folder that appears whole: under its name, under another one next to it where a budget was missed, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fxopt.backend import read_json
from fxopt.backend.manifest import Files
from fxopt.errors import BackendError, UsageError
from fxopt.support.resources import resource_error
from fxopt.support.scratch import alone_in, scratch_folder

MANIFEST = "manifest.json"
REPORT = "report.json"
PAGE = "report.html"
SIGNATURE = f"{MANIFEST}.minisig"
INTERFACE = "interface.txt"
"""The interface file that a bundle adds for its program, which reads no JSON."""
_LONGEST = 255
"""Bytes of the longest name of a file, on the disks of Linux, macOS and Windows."""
_FILES: TypeAdapter[dict[str, str]] = TypeAdapter(Files)


@dataclass
class Stage:
    """A ``folder`` to fill, which then appears as ``out``; set ``missed`` where it misses a budget."""

    folder: Path
    out: Path
    missed: bool = False

    @property
    def place(self) -> Path:
        """Where it appears."""
        return missed_name(self.out) if self.missed else self.out


def missed_name(out: Path, ending: str = "") -> Path:
    """The name of what misses a budget, beside that asked for: digits.missed, or digits.missed.tar.gz by its ``ending``."""
    return out.with_name(f"{out.name.removesuffix(ending)}.missed{ending}")


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Stage]:
    """Yield a stage whose folder is moved into place on success, and removed on failure.

    Existing files stay until then. A build that misses a budget replaces an earlier one that did, and leaves ``out``
    untouched; one that misses nothing removes it. Of two builds into one folder the later one wins.
    Raises UsageError, before anything is built, where ``out`` cannot be written, or where something that no build wrote would
    be lost; ResourceError where the disk is full.
    """
    out = _place_of(out)
    with contextlib.ExitStack() as stack:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(scratch_folder(out.parent))
        except OSError as error:
            if full := resource_error(error, out.parent):
                raise full from error
            raise UsageError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from None
        stage = Stage(folder / "artifact", out)
        stage.folder.mkdir()
        yield stage
        try:
            os.chmod(stage.folder, 0o755)
            with alone_in(out.parent):
                _move(stage.folder, stage.place, folder)
                earlier = missed_name(out)
                if not stage.missed and earlier.exists() and not _stranger(earlier, missed=True):
                    earlier.rename(folder / "missed")
        except OSError as error:
            if full := resource_error(error, out.parent):
                raise full from error
            raise UsageError(f"cannot write to {stage.place}: {error.strerror or error}") from error


def _place_of(out: Path) -> Path:
    """The actual folder: of a link, its destination. Raises UsageError where no artifact can be there."""
    try:
        out = out.resolve()
        if not out.name:
            raise UsageError(f"cannot write to {out}, the root of the file system; choose another --out")
        if len(os.fsencode(missed_name(out).name)) > _LONGEST:
            raise UsageError(f"cannot write to {out}: the name is too long; choose another --out")
        if out.parent.is_dir():
            with alone_in(out.parent):  # the folder of a concurrent build would be taken for a stranger
                _check_strangers(out)
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links is a RuntimeError
        raise UsageError(f"cannot write to {out}: {error}; choose another --out") from None
    return out


def _check_strangers(out: Path) -> None:
    if stranger := _stranger(out):
        raise _lost(stranger, "an artifact")
    if stranger := _stranger(missed_name(out), missed=True):
        raise _lost(stranger, "an artifact that missed a budget")


def _stranger(folder: Path, *, missed: bool = False) -> Path | None:
    """Something in a folder that no build wrote, or with ``missed`` none that missed a budget, and that would be lost."""
    if not folder.is_dir():
        return folder if os.path.lexists(folder) else None
    try:
        listed = _FILES.validate_python(read_json(folder / MANIFEST).get("files"))
        made = {str(folder / name) for name in (MANIFEST, REPORT, PAGE, SIGNATURE, *listed)}
        if missed and not read_json(folder / REPORT)["missed"]:
            made = set()
    except (BackendError, KeyError, ValidationError):
        made = set()
    present = (os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)
    return next((Path(path) for path in present if path not in made), None)


def _lost(stranger: Path, kind: str) -> UsageError:
    return UsageError(f"{stranger} is not part of {kind}, and would be lost; choose another --out, or remove it")


def _move(folder: Path, place: Path, gone: Path) -> None:
    """Move a folder into place; existing files go to ``gone`` only then, and are restored where the move fails."""
    if not place.exists():
        folder.rename(place)
        return
    old = place.rename(gone / "old")
    try:
        folder.rename(place)
    except BaseException:
        old.rename(place)
        raise


def sha256(path: Path) -> str:
    """sha256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_files(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder but the manifest and the report, by relative path."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {name: sha256(folder / name) for name in names if name not in (MANIFEST, REPORT)}


def write_json(path: Path, value: Any) -> None:
    """Write JSON with its keys in their order, which is that of a model's outputs."""
    path.write_text(json.dumps(value, indent=1, default=str) + "\n")
