"""Progress of long steps: a bar on a terminal, else an occasional line of the logger ``fxopt``."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class Advance(Protocol):
    """Advances a bar by ``count``; ``what`` replaces its text."""

    def __call__(self, count: int, what: str | None = None) -> None:
        """Move the bar on."""


_CONSOLE: ContextVar[Console | None] = ContextVar("console", default=None)
_HIDDEN: ContextVar[bool] = ContextVar("hidden", default=False)
_EVERY = 10.0
"""Seconds between two lines where there is no bar."""
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Show no bars of what runs inside, wherever it runs."""
    token = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


@contextlib.contextmanager
def shown_on(console: Console) -> Iterator[None]:
    """Show the bars of what runs inside on this console: two consoles on one terminal would overwrite each other."""
    token = _CONSOLE.set(console)
    try:
        yield
    finally:
        _CONSOLE.reset(token)


@contextlib.contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Advance]:
    """Yield a function that advances the bar, and may replace its text; the bar disappears at the end.

    Shown on standard error, or on the console of :func:`shown_on`, and only where that is a terminal; otherwise the logger
    reports progress at INFO, every ten seconds. ``total`` is None if unknown.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = _CONSOLE.get() or Console(stderr=True)
    barred = console.is_terminal and not _HIDDEN.get()
    with Progress(console=console, transient=True, disable=not barred) as bar:
        task = bar.add_task(what, total=total)
        done, told, text = 0, time.monotonic(), what

        def advance(count: int, what: str | None = None) -> None:
            nonlocal done, told, text
            bar.update(task, advance=count, description=what)
            done, text = done + count, what or text
            if not barred and time.monotonic() - told >= _EVERY:
                told = time.monotonic()
                _log.info("%s: %s", text, done if total is None else f"{done} of {total}")

        yield advance
