"""What a search shows: the front, refusals and time as it goes, and the account at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.markup import escape
from rich.table import Table

from fxopt.cli.app import from_here

if TYPE_CHECKING:
    from fxopt.automl.report import SearchReport
    from fxopt.automl.search import Progress

_ROWS = 12


class Live:
    """A table that is kept up to date on a terminal; elsewhere a line for each trial."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = RichLive(console=console, transient=True, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Live:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show how far it is."""
        if self._live:
            self._live.update(_state(progress), refresh=True)
        elif (last := progress.last) is not None:
            what = ", ".join(f"{k} {v:.4g}" for k, v in last.figures.items() if k in progress.goals.objectives)
            line = f"{last.number:>4} {last.why}: {', '.join(last.passes) or 'no passes'} | {last.backend}: {what}"
            self._console.print(escape(line), soft_wrap=True)


def _state(progress: Progress) -> Group:
    counts = Counter(r.why for r in progress.records)
    rungs = Counter(list(r.rungs)[-1] for r in progress.records if r.rungs)
    left = "" if progress.seconds_left is None else f", {max(0, progress.seconds_left):.0f} s left"
    head = f"{len(progress.records)} recipes tried{left}; hypervolume {progress.hypervolume:.4f}"
    lines = [head, "ended: " + ", ".join(f"{count} {why}" for why, count in counts.most_common())]
    lines.append("highest rung: " + ", ".join(f"{name} {count}" for name, count in rungs.most_common()))
    shown = progress.front[:_ROWS]
    table = _front_table([{w: r.figures[w] for w in progress.goals.objectives} for r in shown], progress.original)
    return Group(*lines, table, *(escape(f"{i:02} {record.point}") for i, record in enumerate(shown, 1)))


def _front_table(rows: list[dict[str, float]], original: Mapping[str, float]) -> Table:
    table = Table(title="Front", title_justify="left")
    table.add_column("")
    for what in rows[0] if rows else ():
        table.add_column(what, justify="right")
    for i, figures in enumerate(rows, 1):
        table.add_row(f"{i:02}", *(_cell(what, value, original) for what, value in figures.items()))
    return table


def _cell(what: str, value: float, original: Mapping[str, float]) -> str:
    if what in ("metric_drop", "noise_db"):
        return f"{value:.4f}" if what == "metric_drop" else f"{value:.1f}"
    ratio = value / original[what] if original.get(what) else None
    text = f"{value:.3g}" if what == "latency_ms" else f"{value:,.0f}"
    return text + (f" ({ratio:.3f}x)" if ratio is not None else "")


def show_search(report: SearchReport, out: Path, console: Console) -> None:
    """Print the account of a search."""
    original = dict(report.original)
    head = f"{report.trials} recipes of {report.model} for {report.target['name']} in {report.seconds:.0f} s"
    console.print(f"[bold]{escape(head)}[/]; limits: {escape(', '.join(report.limits) or 'none')}")
    for note in report.notes:
        console.print(f"  note: {escape(note)}")
    if report.front:
        console.print(_front_table([{w: a.figures[w] for w in report.objectives} for a in report.front], original))
    for answer in report.front:
        test = "" if answer.test_drop is None else f"; loses {answer.test_drop:.4f} of {report.metric} on test data"
        console.print(f"  {escape(from_here(out / answer.recipe))}: {escape(answer.backend)}{test}", soft_wrap=True)
        console.print(f"    [dim]{escape(', '.join(answer.passes))}[/]", soft_wrap=True)
    for technique in report.techniques:
        state = "on the front" if technique.on_front else f"not on the front: {technique.why_not}"
        console.print(f"  {technique.name} ({technique.tried} tried): {escape(state)}", soft_wrap=True)
    for rejected in report.rejected:
        example = escape((rejected.example or "").split("\n")[0])
        console.print(f"  [dim]{rejected.count} {rejected.why}, such as: {example}[/]", soft_wrap=True)
    for what, shares in report.importance.items():
        most = ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:4])
        console.print(f"  {what} depends on: {escape(most)}")
    if report.trade is not None:
        gains = ", ".join(f"{k} {report.trade.instead_of[k]:.4g} -> {v:.4g}" for k, v in report.trade.best.items())
        console.print(f"  with {report.trade.extra_drop:g} more of the metric: {gains}")
    console.print(
        f"[bold]{escape(from_here(out))}[/]: build one with fxopt build {escape(from_here(out))}/front/01.toml -o …"
    )
