"""A digest of code: of a module's source and of all that it imports, so that results of edited code are not reused.

Imports are followed within fxopt, within the module's own package, and to files that are neither of the standard library
nor of an installed distribution. For the rest, the versions of installed distributions count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import os
import site
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

_BEGUN_NS = time.time_ns()
"""About when this process began: files edited since may be loaded in their earlier state."""
_INSTALLED = tuple(
    {
        os.path.realpath(path)
        for path in (*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages())
        if Path(path).name in ("site-packages", "dist-packages") or Path(path).name.startswith("python3")
    }
)


_KNOWN: dict[tuple[str, ...], _Stamp] = {}


@dataclass(frozen=True)
class _Stamp:
    """A digest, and the state of its sources."""

    digest: str
    sources: tuple[tuple[str, int], ...]

    def holds(self) -> bool:
        """Whether no source was edited since."""
        return all(_changed_ns(path) == changed for path, changed in self.sources)

    def is_loaded(self) -> bool:
        """Whether no source was edited since the process began, so that the loaded code is that of the sources."""
        return all(changed <= _BEGUN_NS for _, changed in self.sources)


def code_stamp(*modules: str) -> str | None:
    """sha256 over the sources of modules and their imports; None where a source is missing or was edited meanwhile."""
    known = _KNOWN.get(modules)
    if known is None or not known.holds():
        sources = _sources(modules)
        if not sources.keys() >= set(modules):
            return None
        facts = tuple((path, _changed_ns(path)) for path in sources.values())
        said = [f"{name} {_file_digest(path, _changed_ns(path))}" for name, path in sources.items()]
        known = _KNOWN[modules] = _Stamp(hashlib.sha256("\n".join(sorted(said)).encode()).hexdigest(), facts)
    return known.digest if known.is_loaded() else None


def _sources(modules: tuple[str, ...]) -> dict[str, str]:
    """The source files of modules and of all that they import, by the name of the module."""
    found: dict[str, str] = {}
    left = list(modules)
    roots = {name.partition(".")[0] for name in modules} | {__name__.partition(".")[0]}
    followed = dict.fromkeys(roots, True)
    while left:
        name = left.pop()
        package = name.partition(".")[0]
        if package not in followed:
            followed[package] = _is_own(package)
        if name in found or not followed[package]:
            continue
        path = _source(name)
        if path is not None:
            found[name] = path
            left += _imports(name, path, _changed_ns(path))
    return found


def _changed_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


@functools.cache
def installed() -> str:
    """sha256 over the names and versions of all installed distributions, and Python's own."""
    names = {sys.version}
    for folder in sys.path:
        if os.path.isdir(folder):
            names |= {name for name in os.listdir(folder) if name.endswith((".dist-info", ".egg-info"))}
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def _source(name: str) -> str | None:
    """The source file of a module, which is not imported for that; None for one without."""
    module = sys.modules.get(name)
    origin = getattr(module, "__file__", None)
    if module is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        origin = spec.origin if spec else None
    return origin if origin and origin.endswith(".py") and os.path.isfile(origin) else None


def _is_own(package: str) -> bool:
    """Whether a top-level package is the user's own code: files of no installed distribution."""
    path = _source(package)
    return path is not None and not os.path.realpath(path).startswith(tuple(root + os.sep for root in _INSTALLED))


@functools.cache
def _file_digest(path: str, changed_ns: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@functools.cache
def _imports(name: str, path: str, changed_ns: int) -> tuple[str, ...]:
    """Names of the modules that a source imports, anywhere in it, and of the packages around them."""
    package = name if os.path.basename(path) == "__init__.py" else name.rpartition(".")[0]
    wanted: set[str] = set()
    for node in ast.walk(ast.parse(Path(path).read_bytes())):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ("." * node.level) + (node.module or "")
            base = importlib.util.resolve_name(base, package) if node.level else base
            wanted.add(base)
            wanted |= {found for alias in node.names if (found := _module_of(base, alias.name))}
    around = {parent for w in wanted for i in range(len(w)) if w[i] == "." and (parent := w[:i])}
    return tuple(sorted(wanted | around))


def _module_of(base: str, name: str) -> str | None:
    """The module that ``from base import name`` imports besides ``base``: a submodule, or that of a lazy attribute."""
    module = sys.modules.get(base)
    if module is not None and "__getattr__" in vars(module):
        made_in = getattr(getattr(module, name, None), "__module__", None)
        return made_in if isinstance(made_in, str) else None
    path = _source(base) if base.partition(".")[0] in sys.modules else None
    if path is None or os.path.basename(path) != "__init__.py":
        return None
    inside = (Path(path).with_name(name) / "__init__.py", Path(path).with_name(f"{name}.py"))
    return f"{base}.{name}" if any(map(os.path.isfile, inside)) else None
