"""What a search shows: the front, refusals and time as it goes, and the account at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.markup import escape

from fxopt.cli.app import from_here
from fxopt.cli.layout import Column, Listing, say

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


def _front_table(rows: list[dict[str, float]], original: Mapping[str, float]) -> Listing:
    table = Listing("Front", [Column(""), *(Column(what, right=True) for what in (rows[0] if rows else ()))])
    for i, figures in enumerate(rows, 1):
        table.add(f"{i:02}", *(_cell(what, value, original) for what, value in figures.items()))
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
    say(
        console, f"{head}: {len(report.front)} on the front; limits: {', '.join(report.limits) or 'none'}", style="bold"
    )
    for note in report.notes:
        say(console, f"note: {note}", indent=2)
    if report.front:
        console.print(_front_table([{w: a.figures[w] for w in report.objectives} for a in report.front], original))
    for answer in report.front:
        test = "" if answer.test_drop is None else f"; loses {answer.test_drop:.4f} of {report.metric} on test data"
        say(console, f"{from_here(out / answer.recipe)}: {answer.backend}{test}", indent=2)
        say(console, ", ".join(answer.passes), indent=4, style="dim")
    for technique in report.techniques:
        state = "on the front" if technique.on_front else f"not on the front: {_first_line(technique.why_not)}"
        say(console, f"{technique.name} ({technique.tried} tried): {state}", indent=2)
    for rejected in report.rejected:
        say(
            console, f"{rejected.count} {rejected.why}, such as: {_first_line(rejected.example)}", indent=2, style="dim"
        )
    for what, shares in report.importance.items():
        most = ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:4])
        say(console, f"{what} depends on: {most}", indent=2)
    if report.trade is not None:
        gains = ", ".join(f"{k} {report.trade.instead_of[k]:.4g} -> {v:.4g}" for k, v in report.trade.best.items())
        say(console, f"with {report.trade.extra_drop:g} more of the metric: {gains}", indent=2)
    folder = from_here(out)
    say(console, f"{folder}: build one with fxopt build {folder}/front/01.toml -o …", style="bold")


def _first_line(reason: str | None) -> str:
    """What went wrong; ``search.json`` and the page have the nodes and the way out too."""
    return (reason or "").split("\n")[0].removesuffix(":")
