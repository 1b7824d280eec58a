"""What is said while something is built: a line that changes on a terminal, elsewhere plain lines with the time."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say of every step what it left alone and chose, too.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but what went wrong.")]


@contextlib.contextmanager
def telling(console: Console, *, verbose: bool, quiet: bool) -> Iterator[None]:
    """Show what the logger ``fxopt`` says: on ``console`` where that is a terminal, else line by line on standard error."""
    from fxopt.support.progress import hidden, shown_on

    log = logging.getLogger("fxopt")
    before = log.level
    log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    with contextlib.ExitStack() as stack:
        status = None
        if quiet:
            stack.enter_context(hidden())
        elif console.is_terminal:
            stack.enter_context(shown_on(console))
            status = stack.enter_context(console.status("starting"))
        handler = _Lines(console, status)
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            log.setLevel(before)


class _Lines(logging.Handler):
    """Records as text; those that tell how far it is stand beside the spinner, where there is one."""

    def __init__(self, console: Console, status: Status | None) -> None:
        super().__init__()
        self._console, self._status, self._start = console, status, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        import sys

        from rich.text import Text

        from fxopt.cli.layout import say
        from fxopt.errors import shown

        text = shown(record.getMessage())
        if self._status is None:
            print(f"{time.monotonic() - self._start:7.1f} s  {text}", file=sys.stderr, flush=True)
        elif record.levelno == logging.INFO:
            self._status.update(Text(text.split("\n")[0]))
        else:
            say(self._console, text, indent=2, style="dim")
