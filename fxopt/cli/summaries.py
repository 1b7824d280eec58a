"""Files that a CI shows of builds: Markdown for its page, JUnit's XML for its list of tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fxopt.errors import FxoptError, UsageError

if TYPE_CHECKING:
    from fxopt.driver.report import BuildReport


@contextlib.contextmanager
def summaries(reports: dict[str, BuildReport], summary: Path | None, junit: Path | None) -> Iterator[None]:
    """Write both at the end, of the ``reports`` that are there by then and of the error that ended it, if one did."""
    failed: FxoptError | None = None
    try:
        yield
    except FxoptError as error:
        failed = error
        raise
    finally:
        if summary is not None:
            _write(summary, _markdown(reports, failed), "a")
        if junit is not None:
            from fxopt.driver.junit import junit as xml

            _write(junit, xml(reports, failed), "w")


def _markdown(reports: dict[str, BuildReport], failed: FxoptError | None) -> str:
    from fxopt.driver.page.build_page import build_page
    from fxopt.driver.page.elements import Code, Page, Section
    from fxopt.driver.page.markdown import markdown

    pages = [build_page([report]) for report in reports.values()]
    if failed is not None:
        what = Section("What failed", (Code(type(failed).__name__, str(failed)),))
        pages.append(Page(title="The build failed", verdict=failed.what.split("\n")[0], good=False, sections=(what,)))
    return "\n".join(map(markdown, pages))


def _write(path: Path, text: str, mode: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
