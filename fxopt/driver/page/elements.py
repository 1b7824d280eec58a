"""What a page is made of, as values: a template draws each by its ``kind``, and escapes every text in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Cell:
    """Text in a table, and the number that it is sorted by; ``title`` is shown in full where the text is short."""

    text: str
    sort: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under ``columns``, of which ``numeric`` are on the right; with ``search`` they are searched and sorted."""

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = frozenset()
    search: bool = False

    @property
    def used(self) -> tuple[int, ...]:
        """The columns that have something in any row."""
        return tuple(i for i in range(len(self.columns)) if any(row[i].text for row in self.rows))


@dataclass(frozen=True)
class Gauge:
    """A limit, what of it is used up (1.0 is all), and both as text."""

    kind: ClassVar[str] = "gauge"
    name: str
    share: float | None
    met: bool
    text: str

    @property
    def width(self) -> float:
        """Percent of the bar; a bar that is full is a limit twice over."""
        return 0.0 if self.share is None else max(0.0, min(100.0, 50.0 * self.share))


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    kind: ClassVar[str] = "words"
    text: str
    tone: str = ""


@dataclass(frozen=True)
class Code:
    """Text as it is typed, to copy."""

    kind: ClassVar[str] = "code"
    title: str
    text: str


@dataclass(frozen=True)
class Fold:
    """Lines under a heading that opens: why, how often, and where."""

    kind: ClassVar[str] = "fold"
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Dot:
    """A point of a plot, with its name, and the recipe behind it."""

    x: float
    y: float
    name: str
    tone: str = ""
    recipe: str = ""


@dataclass(frozen=True)
class Plot:
    """Points over two quantities, both of which are better the smaller."""

    kind: ClassVar[str] = "plot"
    x: str
    y: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Graph:
    """A graph of ops to look at: ``sides`` by name, each a list of rows of plain values; see page.js."""

    kind: ClassVar[str] = "graph"
    sides: dict[str, list[dict[str, Any]]]


Element = Table | Gauge | Words | Code | Fold | Plot | Graph


@dataclass(frozen=True)
class Section:
    """A heading with what is under it."""

    title: str
    elements: tuple[Element, ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole page."""

    title: str
    verdict: str
    good: bool
    sections: tuple[Section, ...]
    facts: str = ""
