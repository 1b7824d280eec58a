"""The layers of builds beside each other, with what was measured of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fxopt.driver.layers import LayerFigures
from fxopt.driver.page import words
from fxopt.driver.page.elements import Cell, Table
from fxopt.driver.report import BuildReport
from fxopt.support.sparkline import sparkline


@dataclass(frozen=True)
class LayerFacts:
    """What was measured of a layer: milliseconds a call, the kernels that ran it, the SQNR that it keeps of its own value, and
    how often numbers are in each part of the range of its integers, with those below before them and those above after.
    """

    ms: float | None = None
    kernel: str = ""
    sqnr_db: float | None = None
    histogram: Sequence[int] = ()


Measured = Mapping[str, LayerFacts]
"""Facts by the name of the layer."""


def layer_table(names: Sequence[str], reports: Sequence[BuildReport], measured: Mapping[int, Measured]) -> Table:
    """A row for each op with MACs or weights, before or in any build, in the order of the first build."""
    sides = [{layer.name: layer for layer in report.layers} for report in reports]
    before = {layer.name: layer for layer in reports[0].layers_before}
    totals = [sum(layer.macs for layer in side.values()) or 1 for side in sides]
    rows: dict[str, tuple[Cell, ...]] = {}
    for layer in (layer for side in (*sides, before) for layer in side.values()):
        facts = [measured.get(i, {}).get(layer.name) for i in range(len(sides))]
        if layer.name not in rows and (layer.macs or layer.weight_bytes or any(facts)):
            row = [*_identity(layer), _count(before.get(layer.name)), _size(before.get(layer.name))]
            for side, total, fact in zip(sides, totals, facts, strict=True):
                row += _after(side.get(layer.name), total, fact)
            rows[layer.name] = tuple(row)
    columns = ["layer", "op", "gives", "source", "MACs before", "weights before"]
    for name in names:
        of = f", {name}" if len(names) > 1 else ""
        columns += [
            f"{what}{of}" for what in ("MACs", "share", "weights", "precision", "time", "kernel", "SQNR", "histogram")
        ]
    numeric = {4, 5, *(6 + 8 * i + j for i in range(len(names)) for j in (0, 1, 2, 4, 6))}
    return Table(tuple(columns), tuple(rows.values()), frozenset(numeric), search=True)


def _identity(layer: LayerFigures) -> tuple[Cell, ...]:
    module = f"{layer.module} " if layer.module else ""
    return (
        Cell(f"{module}({layer.name})", title=f"reads {', '.join(layer.inputs)}"),
        words.text(layer.op.removeprefix("aten.")),
        words.text(layer.type),
        words.text(layer.source),
    )


def _after(layer: LayerFigures | None, total: int, fact: LayerFacts | None) -> tuple[Cell, ...]:
    share = Cell(f"{layer.macs / total:.1%}", layer.macs / total) if layer and layer.macs else Cell("")
    precision = words.text(layer.precision if layer else None)
    return _count(layer), share, _size(layer), precision, *_facts(fact)


def _facts(fact: LayerFacts | None) -> tuple[Cell, Cell, Cell, Cell]:
    if fact is None:
        return Cell(""), Cell(""), Cell(""), Cell("")
    time = Cell("") if fact.ms is None else Cell(f"{fact.ms:.3g} ms", fact.ms)
    return time, words.text(fact.kernel), words.decibels(fact.sqnr_db), _histogram(fact)


def _histogram(fact: LayerFacts) -> Cell:
    """Bars across the range of the integers; the title has the counts, the text is sorted by what is outside."""
    if not fact.histogram:
        return Cell("")
    below, *inside, above = fact.histogram
    total = sum(fact.histogram)
    title = f"across the range of the integers, {(below + above) / total:.2%} outside: {', '.join(map(str, inside))}"
    return Cell(sparkline(inside, len(inside)), (below + above) / total, title)


def _count(layer: LayerFigures | None) -> Cell:
    return words.count(layer.macs) if layer and layer.macs else Cell("")


def _size(layer: LayerFigures | None) -> Cell:
    return words.size(layer.weight_bytes) if layer and layer.weight_bytes else Cell("")


def graph_rows(layers: Sequence[LayerFigures], measured: Measured | None = None) -> list[dict[str, Any]]:
    """Layers as plain values for the graph, what is empty left out."""
    rows = []
    for layer in layers:
        row: dict[str, Any] = {"name": layer.name, "op": layer.op, "module": layer.module, "type": layer.type}
        row |= {key: value for key, value in layer.model_dump().items() if value and key not in row}
        fact = (measured or {}).get(layer.name)
        if fact is not None and fact.ms is not None:
            row["ms"] = fact.ms
        if fact is not None and fact.sqnr_db is not None and math.isfinite(fact.sqnr_db):
            row["sqnr_db"] = fact.sqnr_db
        rows.append(row)
    return rows
