"""Small pieces of HTML for notebooks, every text in them escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_LEFT = 'style="text-align:left"'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of texts."""
    head = "".join(f"<th {_LEFT}>{html.escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td {_LEFT}>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def fold(title: str, text: str) -> str:
    """Lines of text under a title that opens."""
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"


def words(text: str) -> str:
    """A paragraph."""
    return f"<p>{html.escape(text)}</p>"
