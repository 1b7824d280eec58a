"""A page as one HTML file."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from fxopt.driver.page.elements import Page
from fxopt.driver.page.plot_svg import draw
from fxopt.driver.page.words import short
from fxopt.errors import BackendError, UsageError
from fxopt.support.resources import resource_error
from fxopt.support.scratch import scratch_folder


def page_text(page: Page) -> str:
    """The HTML of a page. Every text is escaped, whoever it comes from. Raises BackendError where Jinja2 is not installed."""
    try:
        import jinja2
    except ImportError:
        raise BackendError("Jinja2 is not installed", way_out="pip install 'fxopt[report]'") from None
    folder = files(__package__)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["draw"] = draw
    environment.filters["short"] = short
    environment.filters["data"] = _data
    environment.filters["foldable"] = _foldable
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(page=page, style=style, script=script)


def write_page(page: Page, path: Path) -> int:
    """Write a page, whole or not at all; return its size in bytes. Raises UsageError where it cannot be written."""
    text = page_text(page).encode("utf-8", "replace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path.parent) as folder:
            beside = folder / "page"
            beside.write_bytes(text)
            beside.replace(path)
    except OSError as error:
        if full := resource_error(error, path.parent):
            raise full from error
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return len(text)


def _foldable(text: str) -> Any:
    """Figures that may go to the next line, on a phone, between one and another and before a range, and nowhere else."""
    import markupsafe

    escaped = str(markupsafe.escape(text))
    return markupsafe.Markup(escaped.replace(" (", " <wbr>(").replace(", ", ", <wbr>"))


def _data(value: Any) -> Any:
    """JSON that may stand in a script element, which ends at the first ``</`` whatever it is in."""
    import markupsafe

    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    return markupsafe.Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
