"""Names to passes, backends, workloads and targets: entry points, loaded when they are first asked for.

Built-ins are registered by the same entry points as anybody's package; ``--load file.py`` adds what one file
defines. Listing reads the first line of each docstring from the source, without importing it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxopt.errors import UnknownNameError, UsageError

GROUPS = {
    "pass": "passes", "backend": "backends", "workload": "models", "target": "targets", "analysis": "analyses",
    "device": "devices", "block": "blocks",
}  # fmt: skip
"""What can be registered, and the command that lists it. The entry-point groups are ``fxopt.passes``, …"""

_ENTRY_GROUPS = {
    "pass": "fxopt.passes", "backend": "fxopt.backends", "workload": "fxopt.workloads", "target": "fxopt.targets",
    "analysis": "fxopt.analyses", "device": "fxopt.devices", "block": "fxopt.blocks",
}  # fmt: skip
_loaded: dict[str, dict[str, Any]] = {kind: {} for kind in GROUPS}


@dataclass(frozen=True)
class Entry:
    """A registered name: where it comes from, and the first line of its docstring."""

    name: str
    origin: str
    value: str
    summary: str


@functools.cache
def _entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    found: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=_ENTRY_GROUPS[kind]):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UsageError(
                f"two packages register the {kind} {point.name!r}: {_origin(other)} ({other.value}) and "
                f"{_origin(point)} ({point.value})",
                way_out="uninstall one, or rename its entry point",
            )
    return found


def refresh() -> None:
    """Discover installed packages again, as after `pip install` of a package of passes in a running session."""
    importlib.invalidate_caches()
    _entry_points.cache_clear()


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _origin(point: importlib.metadata.EntryPoint) -> str:
    return _name_of(point.dist) if point.dist else "?"


@functools.cache
def _name_of(dist: importlib.metadata.Distribution) -> str:
    """Which reads the whole of its metadata."""
    return dist.name


def names(kind: str) -> list[str]:
    """All registered names of a kind, sorted."""
    return sorted({*_entry_points(kind), *_loaded[kind]})


def registered(kind: str) -> set[str]:
    """The names of a kind that every process knows, as packages register them: not those of files."""
    return set(_entry_points(kind))


def origin(kind: str, name: str) -> str | None:
    """``module:attribute`` of what a package registers under a name; None for what a file defines."""
    point = _entry_points(kind).get(name)
    return point.value if point is not None else None


def get(kind: str, name: str) -> Any:
    """The object registered under a name. Raises UnknownNameError with the nearest names, UsageError if it cannot load."""
    if name in _loaded[kind]:
        return _loaded[kind][name]
    points = _entry_points(kind)
    if name not in points:
        others = [other for other in GROUPS if other != kind and name in names(other)]
        elsewhere = "".join(f"{name!r} is {_article(other)}; " for other in others)
        hint = f"{elsewhere}`fxopt {GROUPS[kind]}` lists the {GROUPS[kind]}; --load adds a file's"
        raise UnknownNameError(kind, name, names(kind), hint=hint)
    try:
        value = points[name].load()
    except ImportError as error:
        missing = getattr(error, "name", None) or str(error)
        raise UsageError(
            f"the {kind} {name!r} of {_origin(points[name])} cannot be imported: {error}",
            way_out=f"is the extra that holds {missing!r} installed? e.g. pip install 'fxopt[all]'",
        ) from error
    except Exception as error:
        point = points[name]
        raise UsageError(
            f"the {kind} {name!r} of {_origin(point)} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    _loaded[kind][name] = value
    return value


def register(kind: str, name: str, value: Any, where: str) -> None:
    """Add what a file defines. Raises UsageError in the name of ``where`` if the name is taken."""
    if name in names(kind):
        points = _entry_points(kind)
        taken = _origin(points[name]) if name in points else "another file"
        raise UsageError(f"{where}: the {kind} {name!r} is taken by {taken}; rename it")
    _loaded[kind][name] = value


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Whatever is registered inside is forgotten afterwards."""
    before = {kind: dict(found) for kind, found in _loaded.items()}
    try:
        yield
    finally:
        _loaded.update(before)


@contextlib.contextmanager
def overridden(kind: str, name: str, value: Any) -> Iterator[None]:
    """``name`` stands for ``value`` inside, whatever it stood for before, and for that again afterwards."""
    with restored():
        _loaded[kind][name] = value
        yield


def entries(kind: str) -> Iterator[Entry]:
    """Yield every registered name of a kind with its origin and summary, importing nothing that is not loaded."""
    points = _entry_points(kind)
    for name in names(kind):
        if name in points:
            value = points[name].value
            yield Entry(name, _origin(points[name]), value, _summary_from_source(value))
        else:
            thing = _loaded[kind][name]
            yield Entry(name, thing.__module__, thing.__module__, (inspect.getdoc(thing) or "").split("\n")[0])


def _summary_from_source(value: str, *, hops: int = 8) -> str:
    """Summary of ``module:attribute``, read from its source; empty where that cannot be done.

    That is the first line of the docstring of a function or class, of the ``doc`` or ``summary`` of an assigned call, or of
    the comment at the head of ``attribute.toml`` beside the module. Re-exports, ``from x import y``, are followed.
    """
    module, _, attribute = value.partition(":")
    try:
        path = source_of(module)
        text = path.read_text() if path else ""
        if (doc := _doc_of_definition(text, attribute)) is not None:
            return doc.split("\n")[0]
        tree = ast.parse(text) if path else None
    except Exception:  # a finder that some package installed may fail in any way, and so may its source
        return ""
    if path is None or tree is None:
        return ""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in tree.body:
        if (doc := _doc_in(node, attribute)) is not None:
            return doc.split("\n")[0]
        if hops and (origin := reexported_from(node, attribute, package)) is not None:
            return _summary_from_source(origin, hops=hops - 1)
    described = path.with_name(f"{attribute}.toml")
    first = described.read_text().split("\n")[0] if described.is_file() else ""
    return first[1:].strip() if first.startswith("#") else ""


def _doc_of_definition(text: str, name: str) -> str | None:
    """The docstring of a function or class at the top level; None where there is none, or it takes parsing to tell.

    What follows the docstring is not parsed, which of a long module takes most of the time of a listing.
    """
    found = re.search(rf"^(?:async def|def|class) {re.escape(name)}\b.*?\n    (\"\"\")", text, re.MULTILINE | re.DOTALL)
    end = -1 if found is None else text.find('"""', found.end())
    if found is None or end < 0:
        return None
    try:
        node = ast.parse(text[found.start() : end + 3]).body[0]
    except SyntaxError:
        return None
    return ast.get_docstring(node) if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else None


def source_of(module: str) -> Path | None:
    """Source file of a module, found without importing it or the packages around it."""
    parts, path, spec = module.split("."), None, None
    for i in range(len(parts)):
        name = ".".join(parts[: i + 1])
        specs = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((found for found in specs if found), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return Path(spec.origin) if spec and spec.origin else None


def _doc_in(node: ast.stmt, name: str) -> str | None:
    """What a statement that defines ``name`` documents it with, empty where it does not; None for other statements."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
        return ast.get_docstring(node) or ""
    if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
        docs = [k.value for k in getattr(node.value, "keywords", ()) if k.arg in ("doc", "summary")]
        return str(docs[0].value) if docs and isinstance(docs[0], ast.Constant) else ""
    return None


def reexported_from(node: ast.stmt, name: str, package: str) -> str | None:
    """``module:attribute`` that a ``from … import`` of a module of ``package`` binds ``name`` to; None if it does not."""
    if not isinstance(node, ast.ImportFrom):
        return None
    origin = next((alias.name for alias in node.names if (alias.asname or alias.name) == name), None)
    if origin is None:
        return None
    module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    return f"{module}:{origin}"
