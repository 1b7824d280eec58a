"""Progress bars of long steps, where somebody looks at a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class Advance(Protocol):
    """So many more are done; ``what`` takes the place of the bar's text."""

    def __call__(self, count: int, what: str | None = None) -> None:
        """Move the bar on."""


_CONSOLE: ContextVar[Console | None] = ContextVar("console", default=None)


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
    """Give a function that says how many more are done, and perhaps what else is known by now; the bar goes away at the end.

    Shown on standard error, or on the console of :func:`shown_on`, and only where that is a terminal. ``total`` is None
    where nobody knows how many there will be.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = _CONSOLE.get() or Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)

        def advance(count: int, what: str | None = None) -> None:
            bar.update(task, advance=count, description=what)

        yield advance
