"""A crash as its author can use it: whose code it was, and a trace without the frames of the command line's libraries."""

from __future__ import annotations

import importlib.metadata
import sys
import sysconfig
import traceback
from pathlib import Path
from types import FrameType

_AROUND = ("typer", "click", "fxopt.cli", "runpy", "__main__")
"""Packages whose frames say nothing of the crash: they only lead to it."""


def told_crash(error: BaseException) -> None:
    """Print the trace of an error that nobody wrote for users, and whose mistake it probably is."""
    found = traceback.TracebackException.from_exception(error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    kept = [i for i, frame in enumerate(frames) if not _leads_to_it(frame)]
    if kept:
        found.stack = traceback.StackSummary.from_list([found.stack[i] for i in kept])
    print("".join(found.format()), end="", file=sys.stderr)
    whose = _owner(frames)
    called = (
        "this is a mistake in fxopt or in code that it called" if whose is None else f"this is a mistake in {whose}"
    )
    print(f"{called}, not in the command; see the trace", file=sys.stderr)


def told_place(error: BaseException) -> None:
    """Print where the cause of an error was raised, and of which package that is, if it is not fxopt's own."""
    cause = error.__cause__
    frames = [] if cause is None else [frame for frame, _ in traceback.walk_tb(cause.__traceback__)]
    if cause is not None and (whose := _owner(frames)) is not None:
        last = max(i for i, frame in enumerate(frames) if _theirs(frame))
        line = traceback.extract_tb(cause.__traceback__)[last]
        print(f"  raised in {whose}, {line.filename}:{line.lineno}", file=sys.stderr)
        if line.line:
            print(f"    {line.line}", file=sys.stderr)


def _leads_to_it(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return any(name == package or name.startswith(f"{package}.") for package in _AROUND)


def _theirs(frame: FrameType) -> bool:
    """Whether a frame is in code that is neither fxopt's nor of Python, torch or another library below a plugin."""
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    file = Path(frame.f_code.co_filename)
    if package == "fxopt" or not file.suffix or _leads_to_it(frame):
        return False
    return package in _plugins() or not any(file.is_relative_to(place) for place in _libraries())


def _libraries() -> set[str]:
    return {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}


def _plugins() -> dict[str, str]:
    """Packages that register something, with their distribution."""
    from fxopt import registry

    entries = [entry for kind in registry.GROUPS for entry in registry.entries(kind)]
    return {
        entry.value.partition(".")[0].partition(":")[0]: entry.origin for entry in entries if entry.origin != "fxopt"
    }


def _owner(frames: list[FrameType]) -> str | None:
    """The plugin or file in which an error arose; None where it is fxopt's own code or a library's."""
    for frame in reversed(frames):
        if _theirs(frame):
            package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            try:
                origin = _plugins()[package]
                return f"{origin} {importlib.metadata.version(origin)}"
            except (KeyError, importlib.metadata.PackageNotFoundError):  # a file, of --load or beside
                return Path(frame.f_code.co_filename).name
    return None
