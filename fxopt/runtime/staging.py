"""A folder that appears whole: under the name that was asked for, beside it where a budget was missed, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxopt.backend import read_json
from fxopt.errors import BackendError, UsageError


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
    """Yield a stage whose folder takes its place when all went well, and vanishes when anything did not.

    What was there before stays until then. A build that misses a budget replaces an earlier one that did, and leaves
    ``out`` as it is; one that misses nothing removes it. Raises UsageError, before anything is built, where ``out`` cannot
    be written, or where something that no build made would be lost.
    """
    out = out.resolve()  # of a link, the folder it leads to is replaced
    if stranger := _stranger(out):
        raise _lost(stranger, "an artifact")
    if stranger := _stranger(missed_name(out), missed=True):
        raise _lost(stranger, "an artifact that missed a budget")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Stage(Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)), out)
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from None
    try:
        yield stage
        os.chmod(stage.folder, 0o755)
        _move(stage.folder, stage.place)
        earlier = missed_name(out)
        if not stage.missed and earlier.exists() and not _stranger(earlier, missed=True):
            _remove(earlier)
    except OSError as error:
        raise UsageError(f"cannot write to {stage.place}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage.folder, ignore_errors=True)


def _stranger(folder: Path, *, missed: bool = False) -> Path | None:
    """Something that would be lost with a folder, and that no build made, or with ``missed`` none that missed a budget."""
    if not folder.is_dir():
        return folder if os.path.lexists(folder) else None
    present = [path for path in folder.rglob("*") if not path.is_dir()]
    try:
        made = {folder / name for name in (MANIFEST, REPORT, *read_json(folder / MANIFEST)["files"])}
        if missed and not read_json(folder / REPORT)["missed"]:
            made = set()
    except (BackendError, KeyError, TypeError):
        made = set()
    return next((path for path in present if path not in made), None)


def _lost(stranger: Path, kind: str) -> UsageError:
    return UsageError(f"{stranger} is not part of {kind}, and would be lost; choose another --out, or remove it")


def _move(folder: Path, place: Path) -> None:
    """Give a folder its place; what was there goes only then, and comes back where the folder cannot be moved."""
    if not place.exists():
        folder.rename(place)
        return
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.old.", dir=place.parent) as gone:
        old = place.rename(Path(gone) / "artifact")
        try:
            folder.rename(place)
        except BaseException:
            old.rename(place)
            raise


def _remove(folder: Path) -> None:
    """Take a folder away at once, and then delete it; of a link, the link."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.old.", dir=folder.parent) as gone:
        folder.rename(Path(gone) / "artifact")


MANIFEST = "manifest.json"


REPORT = "report.json"


def sha256(path: Path) -> str:
    """sha256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_files(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder but the manifest and the report, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, REPORT))
    return {str(p.relative_to(folder)): sha256(p) for p in files}


def write_json(path: Path, value: Any) -> None:
    """Write JSON with its keys in their order, which is that of a model's outputs."""
    path.write_text(json.dumps(value, indent=1, default=str) + "\n")
