"""The page of one build or of several of one model: asked and reached, before and after, steps, reasons, layers, candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fxopt.driver.page import words
from fxopt.driver.page.candidates_section import candidates
from fxopt.driver.page.elements import Code, Element, Fold, Gauge, Graph, Page, Section, Words
from fxopt.driver.page.figures_table import beside, figures_table
from fxopt.driver.page.layer_table import Measured, graph_rows, layer_table
from fxopt.driver.page.pipeline_section import choices, left_alone, steps_table
from fxopt.driver.page.verdict import verdict
from fxopt.driver.report import BuildReport
from fxopt.errors import UsageError


def build_page(reports: Sequence[BuildReport], measured: Mapping[int, Measured] | None = None) -> Page:
    """A page of builds of one model, side by side, the first in front; ``measured`` has more about layers, by place.

    Raises UsageError where they are of different models.
    """
    models = {report.model.name: report for report in reports}
    if len(models) > 1:
        (one, a), (other, b) = list(models.items())[:2]
        raise UsageError(
            "builds of different models cannot be compared",
            expected=f"builds of {one}, as {a.folder} is",
            got=f"{b.folder} is of {other}",
            way_out="make a page for each model",
        )
    names = _names(reports)
    sections = [
        Section(
            "Asked and reached",
            tuple(e for n, r in zip(names, reports, strict=True) for e in _asked(n, r, len(reports))),
        ),
        Section("Before and after", (figures_table(names, reports), *beside(reports))),
    ]
    for name, report in zip(names, reports, strict=True):
        of = f" of {name}" if len(reports) > 1 else ""
        sections.append(Section(f"Pipeline{of}", (steps_table(report), *choices(report.steps))))
        if folds := left_alone(report.steps):
            sections.append(Section(f"Left alone{of}", folds))
        if report.choice:
            sections.append(Section(f"Candidates{of}", candidates(report, report.choice)))
    if any(report.layers for report in reports):
        sections.append(
            Section("Layers", (Words(_about_layers(reports[0])), layer_table(names, reports, measured or {})))
        )
        sides = {"before": graph_rows(reports[0].layers_before)}
        for i, (name, report) in enumerate(zip(names, reports, strict=True)):
            sides[name if len(reports) > 1 else "after"] = graph_rows(report.layers, (measured or {}).get(i))
        sections.append(Section("Graph", (Graph(sides),)))
    for name, report in zip(names, reports, strict=True):
        sections.append(Section(f"Backend of {name}" if len(reports) > 1 else "Backend", _backend(report)))
    first = reports[0]
    return Page(
        title=first.model.name, verdict="; ".join(_verdicts(names, reports)),
        good=not any(report.missed for report in reports), sections=tuple(sections),
        facts=f"{first.model.signature} for {first.target.get('name', 'a target')}",
    )  # fmt: skip


def _names(reports: Sequence[BuildReport]) -> list[str]:
    """Names of the builds: their folders, as much of each path as tells them apart."""
    paths = [Path(report.folder or f"build {i + 1}") for i, report in enumerate(reports)]
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _verdicts(names: list[str], reports: Sequence[BuildReport]) -> list[str]:
    return [
        f"{name}: {verdict(report)}" if len(reports) > 1 else verdict(report)
        for name, report in zip(names, reports, strict=True)
    ]


def _asked(name: str, report: BuildReport, builds: int) -> list[Element]:
    found: list[Element] = [Words(name, "dim")] if builds > 1 else []
    for line in report.budget:
        share = line.value / line.limit if line.value is not None and line.limit > 0 else None
        found.append(Gauge(line.name, 2.0 if share is None and not line.met else share, line.met, line.text))
    if not report.budget:
        found.append(Words("No limits were set.", "dim"))
    found += [Words(f"{concern.text}; {concern.way_out}", "warn") for concern in report.concerns]
    found.append(Code("The recipe", words.recipe_text(report.recipe)))
    return found


def _about_layers(report: BuildReport) -> str:
    return f"MACs are of {report.model.macs_of}. Only ops with weights or multiply-accumulates; the graph has all."


def _backend(report: BuildReport) -> tuple[Element, ...]:
    facts = report.backend
    lines = [f"{what}: {how}" for what, how in report.for_target.items()] + [
        str(note) for note in facts.get("notes", [])
    ]
    found: list[Element] = [Words(str(facts.get("text", ""))), *(Words(line, "dim") for line in lines)]
    late = [str(place) for place in facts.get("dequantized_at_run_time", [])]
    if late:
        found.append(Fold(f"{len(late)} layers compute in float at run time", tuple(late)))
    found.append(Fold("Versions", tuple(f"{name} {version}" for name, version in report.versions.items())))
    memory = report.memory
    largest = tuple(f"{size:,} bytes: {where}" for where, size in memory.largest)
    found.append(
        Fold(
            f"Planned memory: {memory.weights:,} bytes of weights, {memory.values:,} of values at {memory.at}", largest
        )
    )
    return tuple(found)
