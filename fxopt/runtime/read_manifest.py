"""The manifest of a folder and its files, validated: the one place that reads either.

An artifact may come from anybody. A manifest is checked before it is used, and the folder must hold the files that it
lists and no others: a library that is not listed would be loaded without its checksum.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from fxopt.backend import Manifest, read_json
from fxopt.errors import BackendError
from fxopt.runtime import treespec
from fxopt.runtime.staging import INTERFACE, MANIFEST, PAGE, REPORT, SIGNATURE, sha256

_BESIDE = {MANIFEST, REPORT, PAGE, SIGNATURE, INTERFACE}
"""Files that a manifest does not list; no runtime loads them."""
_AGAIN = "build the artifact again, or load it with the fxopt that built it"


def read_manifest(folder: Path) -> Manifest:
    """Read ``manifest.json``. Raises BackendError where the folder is no artifact, or its files differ."""
    manifest = _parsed(folder / MANIFEST)
    present = dict(_entries(folder))
    if not manifest.files:
        raise BackendError(f"{folder / MANIFEST}: it lists no files", way_out=_AGAIN)
    for name in present.keys() - manifest.files.keys() - _BESIDE:
        raise BackendError(
            f"{folder / name} is not listed in {MANIFEST}", way_out="remove it, or copy the whole folder again"
        )
    for name, digest in manifest.files.items():
        if name not in present or sha256(folder / name) != digest:
            state = "differs from what was built" if name in present else "is missing"
            raise BackendError(f"{folder / name} {state}; copy the whole folder, or build the artifact again")
    return manifest


def _parsed(path: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate(read_json(path))
        treespec.check(manifest.in_tree, len(manifest.inputs), "in_tree")
        treespec.check(manifest.out_tree, len(manifest.outputs), "out_tree")
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        problem = f"the key {key!r} is missing" if first["type"] == "missing" else f"{key}: {first['msg']}"
        raise BackendError(f"{path}: {problem}", way_out=_AGAIN) from None
    except (ValueError, RecursionError) as error:
        raise BackendError(f"{path}: {error}", way_out=_AGAIN) from None
    return manifest


def _entries(folder: Path, inside: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below a folder, by its relative name. Raises BackendError for a link or a special file."""
    with os.scandir(folder / inside) as entries:
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _entries(folder, name)
            elif stat.S_ISREG(mode):
                yield name, entry
            else:
                kind = "a link" if stat.S_ISLNK(mode) else "no regular file"
                raise BackendError(f"{folder / name} is {kind}; an artifact is a folder of plain files")
