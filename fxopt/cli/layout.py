"""Lines and tables that fit the console: words stay whole, what is long goes on under a hanging indent, no column is cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

from fxopt.cli.lines import cuts, leading
from fxopt.errors import shown

_GAP = 2
_HANG = 4
_NAME = 24
"""Columns that names have at least beside figures; longer ones stand on a line before."""


@dataclass(frozen=True)
class Column:
    """A column: figures stand to the ``right``; what is ``apart``, long text, has a line of its own where the width ends."""

    name: str
    right: bool = False
    apart: bool = False


@dataclass
class Listing:
    """Rows under columns, of which the first is the name of the row.

    Where they do not fit beside each other, columns that are apart go below their row; then the figures below names that are
    long, or all names; and where even figures do not fit, they are told one after another. Columns without an entry are left out.
    """

    title: str
    columns: Sequence[Column]
    rows: list[Sequence[str]] = field(default_factory=list)
    caption: str = ""

    def add(self, *cells: str) -> None:
        """Append a row; missing cells are empty."""
        plain = [shown(cell).replace("\n", " ") for cell in cells]
        self.rows.append([*plain, *[""] * (len(self.columns) - len(plain))])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        if self.title:
            yield Text(self.title, style="bold")
        if self.rows:
            yield from self._laid_out(options.max_width)
        if self.caption:
            yield from wrapped(Text(self.caption, style="dim"), options.max_width, hang=_HANG)

    def _laid_out(self, width: int) -> Iterator[Text]:
        used = [i for i in range(len(self.columns)) if i == 0 or any(row[i] for row in self.rows)]
        figures = [i for i in used[1:] if not self.columns[i].apart]
        apart = [i for i in used[1:] if self.columns[i].apart]
        sizes = {
            i: max(cell_len(text) for text in (self.columns[i].name, *(row[i] for row in self.rows))) for i in used
        }
        total = lambda some: sum(sizes[i] + _GAP for i in some) - _GAP  # noqa: E731
        if total([0, *figures, *apart]) <= width:
            yield from self._table([0, *figures, *apart], sizes, [], 0, width)
        elif figures and (room := width - total(figures) - _GAP) >= min(sizes[0], _NAME):
            sizes[0] = min(sizes[0], room)
            yield from self._table([0, *figures], sizes, apart, 0, width)
        elif figures and total(figures) + _HANG <= width:
            yield from self._table(figures, sizes, apart, _HANG, width)
        else:
            yield from self._told(figures, apart, width)

    def _table(
        self, across: list[int], sizes: dict[int, int], below: list[int], indent: int, width: int
    ) -> Iterator[Text]:
        """Rows with the columns ``across``; the name on a line before where it is not one of them, or too long."""

        def line(cells: Sequence[str], style: str = "") -> Text:
            aligned = (_aligned(cells[i], sizes[i], self.columns[i].right) for i in across)
            return _line(" " * indent + (" " * _GAP).join(aligned).rstrip(), style)

        yield line([column.name for column in self.columns], "dim")
        for row in self.rows:
            cells = row
            if 0 not in across or cell_len(row[0]) > sizes[0]:
                yield from wrapped(Text(row[0]), width, hang=leading(row[0]) + _HANG)
                cells = ["", *row[1:]]
            if any(cells[i] for i in across):
                yield line(cells)
            yield from self._below(row, below, width)

    def _told(self, figures: list[int], below: list[int], width: int) -> Iterator[Text]:
        for row in self.rows:
            yield from wrapped(Text(row[0]), width, hang=leading(row[0]) + _HANG)
            told = ", ".join(f"{self.columns[i].name} {row[i]}".strip() for i in figures if row[i])
            yield from wrapped(Text(told), width, indent=_HANG, hang=_HANG)
            yield from self._below(row, below, width)

    def _below(self, row: Sequence[str], columns: list[int], width: int) -> Iterator[Text]:
        for i in columns:
            yield from wrapped(Text(row[i], style="dim"), width, indent=_HANG, hang=2 * _HANG)


def _aligned(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def _line(text: str, style: str = "") -> Text:
    """A line that is printed as it is: a word longer than the console is left to the terminal, where it can be copied whole."""
    return Text(text, style=style, no_wrap=True, overflow="ignore")


def wrapped(text: Text, width: int, *, indent: int = 0, hang: int = 0) -> Iterator[Text]:
    """Lines of a text, cut between words alone: the first behind ``indent``, the others behind ``hang`` spaces."""
    if not text.plain.strip():
        return
    for i, line in enumerate(text.divide(cuts(text.plain, width, indent=indent, hang=hang))):
        line.rstrip()
        yield _line(" " * (hang if i else indent)).append_text(line)


def styled(*parts: str | tuple[str, str]) -> Text:
    """Text of parts, each alone or with its style; control characters in them are escaped."""
    return Text.assemble(*((shown(part), "") if isinstance(part, str) else (shown(part[0]), part[1]) for part in parts))


def say(console: Console, text: str | Text, *, indent: int = 0, hang: int | None = None, style: str = "") -> None:
    """Print text line by line as :func:`wrapped` cuts it; control characters in it are escaped."""
    whole = text if isinstance(text, Text) else Text(shown(text), style=style)
    for part in whole.split("\n", allow_blank=True) or [Text()]:
        if not part.plain.strip():
            console.print()
        for line in wrapped(part, console.width, indent=indent, hang=indent + 2 if hang is None else hang):
            console.print(line, soft_wrap=True, highlight=False)
