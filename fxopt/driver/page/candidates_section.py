"""The backends that were tried, and how each did."""

from __future__ import annotations

from fxopt.driver.page import words
from fxopt.driver.page.elements import Dot, Element, Plot, Table, Words
from fxopt.driver.report import BackendChoice, BuildReport


def candidates(report: BuildReport, choice: BackendChoice) -> tuple[Element, ...]:
    """Latency over noise of all that ran, each with its recipe, and a row for each that was tried."""
    rows = tuple(
        (
            words.text(row.candidate),
            words.latency(row.latency),
            words.decibels(row.agreement.sqnr_db if row.agreement else None),
            words.number(row.metric),
            words.text((row.refused or "").partition("\n")[0], row.refused or ""),
        )
        for row in choice.tried
    )
    plotted = [row for row in choice.tried if row.latency and row.agreement and abs(row.agreement.sqnr_db) < 1e6]
    dots = tuple(
        Dot(
            row.latency.median_ms, -row.agreement.sqnr_db, row.candidate, "bad" if row.refused else "",
            words.recipe_text(report.recipe | {"backend": row.backend} | ({} if row.passes is None else {"passes": row.passes})),
        )
        for row in plotted if row.latency and row.agreement
    )  # fmt: skip
    table = Table(
        ("candidate", "latency", "SQNR", str(report.metric), "refused"), rows, frozenset({1, 2, 3}), search=True
    )
    plot = (Plot("latency, ms", "noise, dB", dots),) if len(dots) > 1 else ()
    return (Words(f"Chosen: {choice.chosen}: {choice.why}"), *plot, table)
