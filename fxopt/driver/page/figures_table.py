"""The model before, and as each build made it."""

from __future__ import annotations

from collections.abc import Sequence

from fxopt.driver.page import words
from fxopt.driver.page.elements import Cell, Element, Table, Words
from fxopt.driver.report import BuildReport


def figures_table(names: Sequence[str], reports: Sequence[BuildReport]) -> Table:
    """Sizes, costs, metric and latency, a column for before and one for each build."""
    first = reports[0]
    sides = [first.before, *(report.after for report in reports)]
    rows = [
        ("file", [words.size(side.file_bytes) for side in sides]),
        (f"MACs of {first.model.macs_of}", [words.count(side.macs) for side in sides]),
        ("parameters", [words.count(side.parameters) for side in sides]),
        ("weights", [words.size(side.weight_bytes) for side in sides]),
        (f"{first.metric or 'metric'} on test data", [words.number(side.metric) for side in sides]),
        ("latency of a call", [words.latency(side.latency) for side in sides]),
        ("peak memory", [words.size(side.peak_memory_bytes) for side in sides]),
    ]
    made = [(words.text(label), *cells) for label, cells in rows if any(cell.text for cell in cells)]
    made.append((words.text("agrees with its program"), Cell(""), *(_agreement(report) for report in reports)))
    columns = ("", "before", *(names if len(names) > 1 else ["after"]))
    return Table(columns, tuple(made), frozenset(range(1, len(columns))))


def _agreement(report: BuildReport) -> Cell:
    if report.agreement is None:
        return words.text("not run", str(report.not_run or ""))
    values = report.agreement.values
    beside = f"{values.off:,} of {values.codes:,} codes off" if values and values.codes is not None else ""
    return Cell(
        f"{report.agreement.relative_error:.2g} relative, {words.decibels(report.agreement.sqnr_db).text}", title=beside
    )


def beside(reports: Sequence[BuildReport]) -> list[Element]:
    """What was timed beside, or why nothing was."""
    found: list[Element] = []
    for report in reports:
        if report.eager:
            found.append(
                Words(
                    f"torch itself, {report.eager.threads} threads: {words.latency(report.eager.latency).text}", "dim"
                )
            )
        if report.not_timed:
            found.append(Words(f"Latency is not measured: {report.not_timed}", "dim"))
    return found
