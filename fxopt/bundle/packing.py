"""Files of a folder as one archive, with the same bytes whenever and by whomever it is made."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their paths."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.as_posix())


def pack(folder: Path, out: Path) -> None:
    """Write a folder's files into the .tar.gz ``out``, without owners and times. Raises OSError."""
    with (
        out.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for file in files_of(folder):
            entry = tarfile.TarInfo(str(file.relative_to(folder)))
            entry.size = file.stat().st_size
            entry.mode = 0o755 if os.access(file, os.X_OK) else 0o644
            with file.open("rb") as content:
                tar.addfile(entry, content)
