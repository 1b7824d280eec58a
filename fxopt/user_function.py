"""A function of the user's own, by its text form: ``module:function`` or ``path/file.py:function``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fxopt.errors import UsageError


def find_function(spec: str, who: str) -> Callable[..., Any]:
    """The function that ``spec`` names. Raises UsageError in the name of ``who`` where it cannot be had."""
    place, _, name = spec.rpartition(":")
    try:
        found = getattr(_module(place), name)
    except Exception as error:
        raise UsageError(
            f"{who}: {type(error).__name__}: {error}\n  give module:function of an importable module, or file.py:function"
        ) from error
    if not callable(found):
        raise UsageError(f"{who}: {name!r} is a {type(found).__name__}, not a function")
    return found


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(place)
        finally:
            sys.path.pop(0)
    path = Path(place)
    spec = importlib.util.spec_from_file_location(f"fxopt_user_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {place}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
