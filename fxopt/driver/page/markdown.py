"""A page as Markdown, for the summary of a CI's run: what GitHub, GitLab and others draw; no layers, no graph, no plots."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator

from fxopt.driver.page.elements import Code, Element, Fold, Gauge, Page, Section, Table, Words

_LINES = 20
"""Lines of a fold: the report has all of them."""


def markdown(page: Page) -> str:
    """Title, verdict, tables of figures and steps; every text is escaped, whoever it comes from."""
    mark = "✅" if page.good else "❌"
    lines = [f"## {_text(page.title)}", "", f"{mark} {_text(page.verdict)}", "", _text(page.facts), ""]
    for section in page.sections:
        lines += _section(section)
    return "\n".join(lines) + "\n"


def _section(section: Section) -> Iterator[str]:
    shown = [element for element in section.elements if not isinstance(element, Table) or not element.search]
    lines = [line for element in shown for line in _element(element)]
    if lines:
        yield from (f"### {_text(section.title)}", "", *lines)


def _element(element: Element) -> Iterator[str]:
    match element:
        case Table():
            yield from (*_table(element), "")
        case Gauge():
            yield from (f"{'✅' if element.met else '❌'} {_text(element.text)}", "")
        case Words():
            yield from (_text(element.text), "")
        case Fold():
            left = len(element.lines) - _LINES
            more = [f"and {left} more"] if left > 0 else []
            yield from _fold(element.title, "<br>".join(map(_text, [*element.lines[:_LINES], *more])))
        case Code():
            yield from _fold(element.title, f"<pre>{html.escape(element.text)}</pre>")


def _fold(title: str, inside: str) -> Iterator[str]:
    # in one block of HTML, which an empty line would end
    yield from (
        f"<details><summary>{_text(title)}</summary>",
        re.sub(r"\n\s*\n", "\n&nbsp;\n", inside),
        "</details>",
        "",
    )


def _table(table: Table) -> Iterator[str]:
    yield _row(_text(table.columns[i]) for i in table.used)
    yield _row("---:" if i in table.numeric else "---" for i in table.used)
    for row in table.rows:
        yield _row(_text(row[i].text) for i in table.used)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """A text as Markdown shows it: neither HTML nor Markdown of its own, in one line."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~@$])", lambda found: f"&#{ord(found[0])};", plain)
