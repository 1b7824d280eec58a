"""Plain text in lines that fit the console; without rich's console, which takes as long to import as a list to print."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator

from rich.cells import cell_len

from fxopt.errors import shown

_HANG = 4
_ITEM = re.compile(r"([*-]|\d+\.) ")


def console_width() -> int:
    """Columns of the console; 80 where there is none, and ``COLUMNS`` where that is set."""
    return shutil.get_terminal_size((80, 24)).columns


def leading(text: str) -> int:
    """How many spaces a text begins with."""
    return len(text) - len(text.lstrip())


def cuts(text: str, width: int, *, indent: int = 0, hang: int = 0) -> list[int]:
    """Where a text is cut, between words alone: its first line stands behind ``indent``, the others behind ``hang`` spaces."""
    found, room, used = [], width - indent, leading(text)
    for word in re.finditer(r"\S+\s*", text):
        if used + cell_len(word[0].rstrip()) > room and word.start() > leading(text):
            found.append(word.start())
            used, room = 0, width - hang
        used += cell_len(word[0])
    return found


def lines(text: str, width: int, *, indent: int = 0, hang: int = 0) -> Iterator[str]:
    """The lines that :func:`cuts` makes."""
    places = [0, *cuts(text, width, indent=indent, hang=hang), len(text)]
    for i, (start, end) in enumerate(itertools.pairwise(places)):
        yield " " * (hang if i else indent) + text[start:end].rstrip()


def show(text: str, *, indent: int = 0, hang: int = 0) -> None:
    """Print a line, cut where the console ends; control characters in it are escaped."""
    for line in lines(shown(text), console_width(), indent=indent, hang=hang):
        print(line)


def flowed(doc: str, width: int) -> Iterator[str]:
    """A docstring in lines of a width: paragraphs filled, indented lines and lists as they are written."""
    paragraph: list[str] = []
    given = doc.rstrip().splitlines()
    for number, line in enumerate([*given, ""]):
        if paragraph and (not line.strip() or _ITEM.match(line) or line[:1].isspace()):
            if line[:1].isspace() and _ITEM.match(paragraph[0]):
                paragraph.append(line.strip())
                continue
            yield from _filled(" ".join(paragraph), width)
            paragraph = []
        if line[:1].isspace():
            yield from lines(line, width, hang=leading(line) + _HANG)
        elif line.strip():
            paragraph.append(line)
        elif number < len(given):
            yield ""


def _filled(text: str, width: int) -> Iterator[str]:
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "")
    hang = 2 if re.match(r"[*-] ", text) else 3 if _ITEM.match(text) else 0
    yield from lines(text, width, hang=hang)
