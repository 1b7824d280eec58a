"""What the steps of a pipeline did, chose and left alone."""

from __future__ import annotations

from collections.abc import Sequence

from fxopt.driver.page import words
from fxopt.driver.page.elements import Cell, Element, Fold, Table
from fxopt.driver.report import BuildReport, SkippedNode, StepReport


def steps_table(report: BuildReport) -> Table:
    """A row for each step: what was verified, and what it saved."""
    rows = []
    for i, step in enumerate(report.steps):
        rows.append(
            (
                Cell(str(i + 1), i + 1.0), words.text(f"{step.part_of} → {step.pass_}" if step.part_of else step.pass_),
                words.text("exact" if step.kind == "exact" else "approximate"), words.text(_effect(step)),
                words.number(step.metric), words.change(step.delta.macs if step.delta else 0, words.count),
                words.change(step.delta.weight_bytes if step.delta else 0, words.size),
                Cell(str(len(step.skips) or ""), float(len(step.skips))),
                Cell("cached" if step.cached else f"{step.seconds:.2f}", step.seconds),
            )
        )  # fmt: skip
    columns = ("", "pass", "kind", "verified", f"{report.metric} (validation)", "MACs", "weights", "left", "seconds")
    return Table(columns, tuple(rows), frozenset({0, 4, 5, 6, 7, 8}))


def _effect(step: StepReport) -> str:
    if not step.changed:
        return "changed nothing"
    text = "changed"
    if step.error is not None:
        text = f"proved in float64, off by {step.error:.0e}" if step.error else "proved in float64, the same numbers"
    if step.sqnr_db is not None:
        text = f"measured, {words.decibels(step.sqnr_db).text} of the outputs kept"
    return text + (f"; {step.vacuous}" if step.vacuous else "")


def choices(steps: Sequence[StepReport]) -> list[Element]:
    """The values that passes chose, and why."""
    lines = tuple(f"{step.pass_}: {c.what} = {c.value}, {c.why}" for step in steps for c in step.choices)
    return [Fold(f"{len(lines)} values that passes chose", lines)] if lines else []


def left_alone(steps: Sequence[StepReport]) -> tuple[Element, ...]:
    """What was left alone by pass and reason; of the steps of one pass, the first that says so says it."""
    told: set[tuple[str, str, str]] = set()
    groups: dict[tuple[str, str], list[SkippedNode]] = {}
    for step in steps:
        who = step.part_of or step.pass_
        for skip in step.skips:
            if (who, skip.node, skip.reason) not in told:
                told.add((who, skip.node, skip.reason))
                groups.setdefault((step.pass_, skip.reason), []).append(skip)
    return tuple(
        Fold(f"{who} left {len(skips)}: {reason}", tuple(f"{skip.node}   {skip.source}" for skip in skips))
        for (who, reason), skips in groups.items()
    )
