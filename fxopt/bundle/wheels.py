"""Files of packages: of those that are installed here, and of wheels for other machines."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fxopt.errors import BackendError, UsageError
from fxopt.support.cache_folder import cache_folder
from fxopt.support.resources import resource_error
from fxopt.support.scratch import scratch_folder
from fxopt.target import Target
from fxopt.target.detect import host

_PLATFORMS = (*(f"manylinux_2_{minor}" for minor in range(17, 40)), "manylinux2014")
"""Platform tags of wheels for Linux; the first has the oldest C library."""


@dataclass(frozen=True)
class Package:
    """The files of a package, by their paths in its wheel; ``where`` they come from."""

    name: str
    version: str
    where: str
    paths: tuple[str, ...]
    read: Callable[[str], bytes]

    def find(self, pattern: str) -> list[str]:
        """Paths that match, sorted. Raises BackendError if there are none."""
        found = sorted(fnmatch.filter(self.paths, pattern))
        if not found:
            raise BackendError(f"{self.name} {self.version} ({self.where}) has no {pattern}, which its wheels have")
        return found


def find_package(name: str, version: str | None, target: Target, folder: Path | None, *, exact: bool) -> Package:
    """The package for a target: from wheels in ``folder`` if given, or as installed, or downloaded into the user's cache.

    ``version`` None is the one installed here. With ``exact``, another one that is installed or in the folder is an error.

    Raises BackendError where there is no such package for the target's architecture, or no network to get it.
    """
    if folder is None and target.architecture == host().architecture:
        found = _installed(name)
    else:
        version = version or _installed(name).version
        found = _in_wheel(_in_folder(name, version, target, folder) if folder else _downloaded(name, version, target))
    if exact and version not in (None, found.version):
        raise BackendError(
            f"the model was compiled by {name} {version}, and {found.where} has {found.version}",
            way_out="build the artifact again, or give wheels of that version: --wheels FOLDER",
        )
    return found


def _installed(name: str) -> Package:
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise BackendError(
            f"{name} is not installed, and its libraries go into the bundle: pip install {name}, or --wheels FOLDER"
        ) from None
    files = {str(path): Path(str(path.locate())) for path in distribution.files or ()}
    return Package(name, distribution.version, "installed here", tuple(files), lambda path: files[path].read_bytes())


def _in_wheel(path: Path) -> Package:
    try:
        with zipfile.ZipFile(path) as file:
            paths = tuple(name for name in file.namelist() if not name.endswith("/"))
    except (OSError, zipfile.BadZipFile) as error:
        raise BackendError(f"{path}: {error}; remove it, and get the wheel again") from None

    def read(name: str) -> bytes:
        with zipfile.ZipFile(path) as file:
            return file.read(name)

    package, version = path.name.split("-")[:2]
    return Package(package.replace("_", "-"), version, path.name, paths, read)


def _in_folder(name: str, version: str, target: Target, folder: Path) -> Path:
    """The wheel of this version; or the only one, whatever its version."""
    if not folder.is_dir():
        raise UsageError(f"--wheels {folder}: there is no such folder")
    fitting = _fitting(name, target, folder)
    same = [path for path in fitting if path.name.split("-")[1] == version]
    if not fitting or (not same and len(fitting) > 1):
        there = ", ".join(path.name for path in fitting) or "none"
        raise BackendError(
            f"{folder}: expected a wheel of {name} {version} for Linux on {target.architecture}, or only one of another "
            f"version; there are: {there}"
        )
    return (same or fitting)[0]


def _fitting(name: str, target: Target, folder: Path) -> list[Path]:
    wheels = sorted(folder.glob(f"{name.replace('-', '_')}-*.whl"))
    return [p for p in wheels if re.search(rf"linux\w*_{re.escape(target.architecture)}$", p.stem.split("-")[-1])]


def _downloaded(name: str, version: str, target: Target) -> Path:
    cache = cache_folder() / "wheels"
    for path in _fitting(name, target, cache):
        if path.name.split("-")[1] == version:
            return path
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with scratch_folder(cache) as scratch:
            _run_pip(name, version, target, str(scratch))
            found = _in_folder(name, version, target, scratch)
            return found.rename(cache / found.name)
    except OSError as error:
        if full := resource_error(error, cache):
            raise full from error
        raise BackendError(f"cannot write to {cache}: {error.strerror or error}; set FXOPT_CACHE") from None


def _run_pip(name: str, version: str, target: Target, into: str) -> None:
    platforms = [word for platform in _PLATFORMS for word in ("--platform", f"{platform}_{target.architecture}")]
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", into, *platforms]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, f"{name}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    way_out = (
        f"get a wheel of {name} {version} for {target.architecture} elsewhere, and give its folder: --wheels FOLDER"
    )
    said = [line for line in done.stderr.splitlines() if line.strip()]
    if any(word in done.stderr for word in ("connection broken", "Connection", "Temporary failure", "timed out")):
        raise BackendError(f"pip cannot reach the package index: {said[0]}", way_out=way_out)
    if "No matching distribution" in done.stderr:
        raise BackendError(
            f"there is no wheel of {name} {version} for Linux on {target.architecture}",
            way_out=f"{way_out}; one that you build yourself will do",
        )
    raise BackendError(
        f"pip cannot download {name} {version}: {(said[-1] if said else 'no reason given')}", way_out=way_out
    )
