"""Files that a backend built before, by the content of everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fxopt.backend import Backend, check_lowerable
from fxopt.ir.program import Program
from fxopt.ir.program_state import program_digest
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.context_reads import ContextKeys, Reads
from fxopt.pass_manager.step_cache import StepCache, watching_reads
from fxopt.pass_manager.step_key import machine
from fxopt.support.code_stamp import code_stamp
from fxopt.target import Target

_READS, _ARTIFACTS = "artifact-reads", "artifacts"


def build_files(
    program: Program, backend: Backend, target: Target, out: Path, cache: StepCache | None
) -> dict[str, Any]:
    """What ``backend.build`` returns, with its files in the folder ``out``. Raises BackendError, which lists every node
    that the backend refuses.

    They are from the cache where the same program was built for the same target by the same code, and every file that
    was read (such as a database of tiles) is unchanged. Builds that timed something are not stored.
    """
    key = _key(program, backend, target) if cache is not None else None
    if cache is None or key is None:
        check_lowerable(backend, program)
        return backend.build(program, target, out)
    keys = ContextKeys(Context())
    read = cache.store.get(_READS, key, count=False)
    for way in read.values["ways"] if read else ():
        beside = keys.digest(way)
        entry = cache.store.get(_ARTIFACTS, f"{key}{beside}") if beside else None
        if entry is not None:
            _write(entry.values["files"], entry.blob, out)
            return dict(entry.values["facts"])
    check_lowerable(backend, program)
    reads = Reads()
    with watching_reads(reads) as seen:
        facts = backend.build(program, target, out)
    way = reads.to_dict()
    beside, plain = keys.digest(way), json.loads(json.dumps(facts, default=str))
    if not seen.volatile and beside is not None and plain == facts:
        ways = read.values["ways"] if read else []
        cache.store.put(_READS, key, {"ways": [*ways, *([way] if way not in ways else [])]})
        files, blob = _read(out)
        cache.store.put(_ARTIFACTS, f"{key}{beside}", {"facts": plain, "files": files}, blob)
    return facts


def _key(program: Program, backend: Backend, target: Target) -> str | None:
    digest, code = program_digest(program), code_stamp(type(backend).__module__)
    if digest is None or code is None:
        return None
    said = [digest, code, repr(backend), target.to_dict(), machine()]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _read(folder: Path) -> tuple[list[tuple[str, int, int]], bytes]:
    """Paths, sizes and modes of the files of a folder, and their bytes one after another."""
    files, parts = [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        parts.append(path.read_bytes())
        files.append((str(path.relative_to(folder)), len(parts[-1]), path.stat().st_mode & 0o777))
    return files, b"".join(parts)


def _write(files: list[tuple[str, int, int]], blob: bytes, folder: Path) -> None:
    start = 0
    for name, size, mode in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob[start : start + size])
        path.chmod(mode)
        start += size
