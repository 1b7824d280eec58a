"""Differences between two builds: recipe, versions, target, results, and layer by layer. Read from their reports alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from fxopt.driver.layers import LayerFigures
from fxopt.driver.part import Document, Part, Real
from fxopt.driver.report import BuildReport, Figures

SCHEMA_VERSION = 1
_TIE = 1.05
"""Ratio of latencies from which one is worse, if the quartiles do not overlap either: smaller ones may be noise."""

Kind = Literal["asked", "reached", "layer"]


class Difference(Part):
    """One difference: ``asked`` for, ``reached``, or a ``layer``; ``worse`` for a result that is worse in the second."""

    kind: Kind
    what: str
    a: str | None = None
    b: str | None = None
    ratio: Real | None = None
    worse: bool = False


class Diff(Document):
    """All differences of the build ``b`` from ``a``."""

    schema_version: int = SCHEMA_VERSION
    a: str
    b: str
    differences: list[Difference]

    @property
    def worse(self) -> list[Difference]:
        """The results that are worse in ``b``."""
        return [difference for difference in self.differences if difference.worse]


def diff(a: BuildReport, b: BuildReport) -> Diff:
    """Compare two reports. A latency, which is measured, is worse only where it clearly is; the rest where it is at all."""
    found = [*_asked(a, b), *_reached(a, b), *_layers(a, b)]
    return Diff(a=str(a.folder), b=str(b.folder), differences=found)


def _asked(a: BuildReport, b: BuildReport) -> list[Difference]:
    sides = [
        {"model": r.model.name, "signature": r.model.signature, **_flat("recipe", r.recipe), "backend": r.backend.get("text")}
        | _flat("target", r.target) | _flat("version of", r.versions)
        for r in (a, b)
    ]  # fmt: skip
    return [Difference(kind="asked", what=what, a=x, b=y) for what, x, y in _unequal(*sides)]


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(f"{prefix} {key}", value) if isinstance(value, dict) else {f"{prefix} {key}": value}
    return found


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str | None, str | None]]:
    keys = [key for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)]
    text = lambda value: None if value is None else str(value)  # noqa: E731
    return [(key, text(a.get(key)), text(b.get(key))) for key in keys]


def _reached(a: BuildReport, b: BuildReport) -> list[Difference]:
    found = []
    for what in ("file_bytes", "macs", "parameters", "weight_bytes"):
        x, y = getattr(a.after, what), getattr(b.after, what)
        if x != y:
            found.append(_result(what, x, y, worse=y > x))
    if (x := a.after.metric) is not None and (y := b.after.metric) is not None and x != y:
        found.append(_result(f"{b.metric or 'metric'} on test data", x, y, worse=y < x))
    if a.after.latency and b.after.latency:
        x, y = a.after.latency.median_ms, b.after.latency.median_ms
        if x != y:
            found.append(_result("latency_ms", x, y, worse=_slower(a.after, b.after)))
    kept = [{line.name: "kept" if line.met else "missed" for line in report.budget} for report in (a, b)]
    found += [
        Difference(kind="reached", what=f"budget {what}", a=x, b=y, worse=y == "missed")
        for what, x, y in _unequal(*kept)
    ]
    return found


def _slower(a: Figures, b: Figures) -> bool:
    assert a.latency
    assert b.latency
    return b.latency.median_ms > _TIE * a.latency.median_ms and b.latency.low_ms > a.latency.high_ms


def _result(what: str, a: float, b: float, *, worse: bool) -> Difference:
    return Difference(kind="reached", what=what, a=f"{a:.6g}", b=f"{b:.6g}", ratio=b / a if a else None, worse=worse)


def _layers(a: BuildReport, b: BuildReport) -> list[Difference]:
    """Layers with work or weights that are in one build alone, or that differ in type, cost or precision."""
    sides = [{layer.name: _facts(layer) for layer in r.layers if layer.macs or layer.weight_bytes} for r in (a, b)]
    return [Difference(kind="layer", what=what, a=x, b=y) for what, x, y in _unequal(*sides)]


def _facts(layer: LayerFigures) -> str:
    facts = [
        layer.module,
        layer.op,
        layer.type,
        f"{layer.macs:,} MACs",
        f"{layer.weight_bytes:,} bytes",
        layer.precision,
    ]
    return ", ".join(fact for fact in facts if fact)
