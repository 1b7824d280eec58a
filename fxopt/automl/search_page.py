"""The page of a search: the front with every recipe to copy, the techniques tried, and why trials stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fxopt.automl.report import Answer, SearchReport
from fxopt.driver.page import words
from fxopt.driver.page.elements import Cell, Dot, Element, Fold, Page, Plot, Section, Table, Words

_SHOWN = {
    "latency_ms": "latency, ms",
    "file_bytes": "file, bytes",
    "metric_drop": "loss of the metric",
    "noise_db": "noise, dB",
    "memory_bytes": "memory, bytes",
    "macs": "MACs",
    "params": "parameters",
    "cycles": "cycles, estimated",
}
_CELLS = {"file_bytes": words.size, "memory_bytes": words.size, "macs": words.count, "params": words.count,
          "cycles": words.count}  # fmt: skip


def search_page(report: SearchReport, folder: Path) -> Page:
    """A page of a search in ``folder``, whose recipe files are quoted where they are there."""
    answers = report.front or ([report.nearest] if report.nearest else [])
    found = f"{len(report.front)} recipes on the front" if report.front else "no recipe keeps all limits"
    asked = f"Minimize {', '.join(map(_name, report.objectives))}; limits: {'; '.join(report.limits) or 'none'}."
    sections = [
        Section("Asked", (Words(asked), *(Words(note, "dim") for note in report.notes))),
        Section("Front" if report.front else "Nearest", (*_plots(report, answers, folder), _table(report, answers))),
        Section("Techniques", (_techniques(report), *_importance(report))),
    ]  # fmt: skip
    if report.rejected:
        folds = tuple(Fold(f"{r.count} trials: {r.why}", (r.example,) if r.example else ()) for r in report.rejected)
        sections.append(Section("Why trials stopped", folds))
    stopped = ", stopped early" if report.interrupted else ""
    return Page(
        title=f"search for {report.model}", good=bool(report.front), sections=tuple(sections),
        verdict=f"{found}; {report.trials} trials in {report.seconds:.0f} s{stopped}",
        facts=f"for {report.target.get('name', 'a target')}, backends {', '.join(report.backends)}, seed {report.seed}",
    )  # fmt: skip


def _name(objective: str) -> str:
    return _SHOWN.get(objective, objective)


def _plots(report: SearchReport, answers: Sequence[Answer], folder: Path) -> list[Element]:
    """Each pair of neighbouring objectives; the original is a point too, where it has both figures."""
    pairs = list(zip(report.objectives[1:], report.objectives, strict=False))
    plots: list[Element] = []
    for x, y in pairs:
        dots = [
            Dot(a.figures[x], a.figures[y], f"{', '.join(a.passes) or 'no passes'} on {a.backend}", "", _recipe(folder, a))
            for a in answers if x in a.figures and y in a.figures
        ]  # fmt: skip
        if x in report.original and y in report.original:
            dots.append(Dot(report.original[x], report.original[y], "the original", "base"))
        if dots:
            plots.append(Plot(_name(x), _name(y), tuple(dots)))
    return plots


def _recipe(folder: Path, answer: Answer) -> str:
    path = folder / answer.recipe
    inside = path.resolve().is_relative_to(folder.resolve())  # a report may come from anybody, and a page be shared
    try:
        return path.read_text(encoding="utf-8") if inside else ""
    except (OSError, ValueError):
        return ""


def _table(report: SearchReport, answers: Sequence[Answer]) -> Table:
    figures = list(dict.fromkeys(what for answer in answers for what in answer.figures))
    columns = ("passes", "backend", *map(_name, figures), "loss on test data", "recipe")
    rows = [
        (words.text(", ".join(a.passes)), words.text(a.backend), *_cells(a.figures, figures),
         words.number(a.test_drop), words.text(a.recipe))
        for a in answers
    ]  # fmt: skip
    original = (*_cells(report.original, figures), Cell(""), Cell(""))
    rows.append((words.text("the original"), Cell(""), *original))
    return Table(columns, tuple(rows), frozenset(range(2, 3 + len(figures))), search=True)


def _cells(figures: Mapping[str, float], wanted: Sequence[str]) -> list[Cell]:
    return [_CELLS.get(what, words.number)(figures.get(what)) for what in wanted]


def _techniques(report: SearchReport) -> Table:
    rows = tuple(
        (words.text(t.name), Cell(str(t.tried), float(t.tried)), Cell(str(t.finished), float(t.finished)),
         words.text("yes" if t.on_front else "no"), words.text(t.why_not))
        for t in report.techniques
    )  # fmt: skip
    return Table(("technique", "tried", "finished", "on the front", "why not"), rows, frozenset({1, 2}), search=True)


def _importance(report: SearchReport) -> list[Element]:
    return [
        Fold(f"What decides {_name(objective)}", tuple(f"{share:.1%}  {what}" for what, share in shares.items()))
        for objective, shares in report.importance.items()
    ]
