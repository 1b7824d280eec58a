"""An artifact with everything that it needs on a device without Python, as one file: `fxopt bundle`."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from fxopt.backend import Manifest, find_backend
from fxopt.backend.standalone import Standalone
from fxopt.bundle.compile_program import compile_program
from fxopt.bundle.flash import is_too_large, kilobytes, too_large
from fxopt.bundle.interface_text import interface_text
from fxopt.bundle.packing import files_of, pack
from fxopt.bundle.readme import device_readme, source_readme
from fxopt.bundle.wheels import find_package
from fxopt.errors import BackendError, UsageError
from fxopt.runtime.read_manifest import read_manifest
from fxopt.runtime.staging import INTERFACE, MANIFEST, missed_name
from fxopt.support.resources import resource_error
from fxopt.support.scratch import scratch_folder
from fxopt.target import Target
from fxopt.target.cross_compiler import missing_compiler

_ENDING = ".tar.gz"


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written: bytes of each file in it, and of the whole, unpacked and packed.

    ``missed`` says by how much it is larger than the target's ``flash``, None where it is not.
    """

    path: Path
    files: dict[str, int]
    total: int
    packed: int
    command: str
    notes: tuple[str, ...]
    missed: str | None

    def text(self) -> str:
        """Its files with sizes, the total, and the command for the device."""
        width = max(map(len, self.files))
        lines = [f"{name:<{width}}  {kilobytes(size):>10} kB" for name, size in self.files.items()]
        lines += [f"{'total':<{width}}  {kilobytes(self.total):>10} kB, packed {kilobytes(self.packed)} kB"]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), f"on the device: {self.command}"])


def bundle(folder: Path, out: Path, wheels: Path | None = None) -> Bundle:
    """Write the artifact in ``folder``, its runtime and a program that runs it into the file ``out``, which ends in .tar.gz.

    The runtime is the installed one, or that of the wheels in the folder ``wheels``; for another architecture without that
    folder, the wheels are downloaded. The same artifact and compiler give the same bytes.

    If the bundle exceeds the target's ``flash``, the result says so, and the file is NAME.missed.tar.gz, with ``out``
    untouched, as for a build that misses a budget (:mod:`fxopt.runtime.staging`). Raises BackendError for a folder that is
    no artifact, a backend or a target without such a program, and where a compiler or a wheel is missing; UsageError where
    ``out`` cannot be written, or a file that is no such bundle has its name. Then there is no new file, and an old one
    stays.
    """
    if not out.name.endswith(_ENDING) or out.name == _ENDING or out.is_dir():
        raise UsageError(f"--out {out}: expected the name of a file that ends in {_ENDING}")
    earlier = missed_name(out, _ENDING)
    if os.path.lexists(earlier) and not is_too_large(earlier):
        raise UsageError(
            f"{earlier} is not a bundle that is too large, and would be lost; choose another --out, or remove it"
        )
    manifest = read_manifest(folder)
    target = manifest.target
    parts = find_backend(manifest.backend).standalone(folder, manifest)
    _check_target(target)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(out.parent) as scratch:
            stage = scratch / "bundle"
            _put_model(stage / "model", folder, manifest, interface_text(manifest, target, parts.options))
            notes = _put_runtime(stage, parts, manifest, target, wheels)
            units = [path.name for path in parts.sources if path.suffix == ".cc"]
            libraries = [library.name for wheel in parts.wheels for library in wheel.libraries]
            command = compile_program(stage, units, libraries, target.triple)
            (stage / "src" / "README").write_text(source_readme(command))
            place, files = out, _put_readme(stage, manifest, target, out)
            if missed := too_large(files, target):
                place, files = earlier, _put_readme(stage, manifest, target, earlier)
                missed = too_large(files, target)
            pack(stage, scratch / place.name)
            (scratch / place.name).replace(place)
            if not missed and is_too_large(earlier):
                earlier.unlink()
    except OSError as error:
        if full := resource_error(error, out.parent):
            raise full from error
        raise UsageError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from None
    name, file = shlex.quote(_name(place)), shlex.quote(place.name)
    run = f"mkdir {name} && tar xzf {file} -C {name} && {name}/bin/run {name}/model"
    return Bundle(place, files, sum(files.values()), place.stat().st_size, run, notes, missed)


def _check_target(target: Target) -> None:
    if "linux-gnu" not in target.triple:
        raise BackendError(
            f"the target {target.name!r} is {target.triple}, and the program without Python is for Linux with glibc: a triple "
            "such as aarch64-linux-gnu"
        )
    if reason := missing_compiler(target.triple):
        raise BackendError(f"the program for {target.name} is compiled here, and {reason}")


def _put_model(into: Path, folder: Path, manifest: Manifest, interface: str) -> None:
    for name in [*manifest.files, MANIFEST]:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, into / name)
    (into / INTERFACE).write_text(interface)


def _put_runtime(
    stage: Path, parts: Standalone, manifest: Manifest, target: Target, wheels: Path | None
) -> tuple[str, ...]:
    """Put sources, libraries, headers and licenses into their folders; return notes on versions."""
    notes = []
    for path in parts.sources:
        _write(stage / "src" / path.name, path.read_bytes())
    for wheel in parts.wheels:
        version = manifest.versions.get(wheel.package)
        package = find_package(wheel.package, version, target, wheels, exact=wheel.exact)
        if version not in (None, package.version):
            notes.append(f"{wheel.package} is {package.version} ({package.where}), and was {version} in the build")
        for library in wheel.libraries:
            _write(stage / "lib" / library.name, package.read(package.find(library.path)[0]))
        for header in wheel.headers:
            _write(stage / "src" / "include" / header, package.read(package.find(wheel.include + header)[0]))
        for found in (path for pattern in wheel.licenses for path in package.find(pattern)):
            _write(stage / "licenses" / wheel.package / Path(found).name, package.read(found))
    return tuple(notes)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _put_readme(stage: Path, manifest: Manifest, target: Target, place: Path) -> dict[str, int]:
    """Write the README, in which the bundle's name is; return the bytes of all files, by their paths."""
    (stage / "README").write_text(device_readme(stage, manifest, target, _name(place)))
    return {str(path.relative_to(stage)): path.stat().st_size for path in files_of(stage)}


def _name(place: Path) -> str:
    return place.name.removesuffix(_ENDING)
