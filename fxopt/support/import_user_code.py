"""The user's own code, by path or by module: the one place that imports it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fxopt.errors import UsageError
from fxopt.support.observed import uses_module


def import_file(path: Path) -> ModuleType:
    """Execute a Python file as a module of its own, again whenever it was edited.

    Raises FileNotFoundError, or whatever the file raises.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return _execute(path.resolve(), path.stat().st_mtime_ns)


@functools.cache
def _execute(path: Path, changed_ns: int) -> ModuleType:
    name = f"fxopt_loaded_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    spec.loader.exec_module(module)
    return module


def import_attribute(spec: str) -> Any:
    """Import ``module:attribute`` or ``path/file.py:attribute``; modules are also found in the current folder."""
    place, _, name = spec.rpartition(":")
    if place.endswith(".py"):
        made = import_file(Path(place))
        uses_module(made.__name__)
        return getattr(made, name)
    uses_module(place)
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(place), name)
    finally:
        sys.path.pop(0)


def says_it_returns(value: Any, name: str) -> bool:
    """Whether a value is a function annotated to return a ``name``, or a class such as ``MyName``.

    Only such a function of a recipe is called: a recipe may come from anybody, and name any importable function.
    """
    if not inspect.isfunction(value):
        return False
    returns = value.__annotations__.get("return")
    told = returns if isinstance(returns, str) else getattr(returns, "__name__", "")
    return told.rpartition(".")[2].endswith(name)


def find_function(spec: str, who: str, returns: str) -> Callable[..., Any]:
    """The function that ``spec`` names, which must say that it ``returns`` such a value.

    Raises UsageError in the name of ``who`` where it cannot be imported.
    """
    try:
        found = import_attribute(spec)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{who}: {type(error).__name__}: {error}",
            way_out="give module:function of an importable module, or file.py:function",
        ) from error
    name = spec.rpartition(":")[2]
    if not says_it_returns(found, returns):
        kind = "function that does not say so" if inspect.isroutine(found) else type(found).__name__
        raise UsageError(
            f"{who}: expected a function that says it returns a {returns}, got a {kind}; nothing was called",
            way_out=f"write its annotation: def {name}(…) -> {returns}",
        )
    function: Callable[..., Any] = found
    return function
