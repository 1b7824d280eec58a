"""The report of an architecture search: for each target the front, and how well it was predicted."""

from __future__ import annotations

from typing import Any

from fxopt.automl.report import Answer
from fxopt.driver.part import Part, Real
from fxopt.driver.stored_report import StoredReport


class SubnetAnswer(Answer):
    """A sub-network on the front: its choices, and how its program and the supernet agree."""

    widths: tuple[int, ...]
    off: tuple[int, ...]
    divergence: Real
    """From the original, as part of the supernet, over one half of the validation split."""
    predicted_cost: Real | None = None
    """Of the second objective, in its unit, by the model that the search had; None for MACs, which are counted."""
    proof: Real
    """Relative error of the extracted program against the supernet's own sub-network, in float64."""


class Failed(Part):
    """A sub-network that could not be built, and why."""

    passes: tuple[str, ...]
    reason: str


class TargetReport(Part):
    """The search for one target. ``evolved`` and ``random`` are hypervolumes of as many sub-networks each."""

    name: str
    target: dict[str, Any]
    limits: list[str]
    objectives: list[str]
    notes: list[str]
    original: dict[str, Real]
    measured: int
    cost_error: Real | None = None
    """Mean relative error of predicted costs, latency or cycles, by leave-one-out."""
    cost_shares: dict[str, Real]
    """By kind of layer, its share of the whole's predicted cost: why targets differ in what they choose."""
    evolved: Real
    random: Real
    front: list[SubnetAnswer]
    failed: list[Failed]


class NasReport(StoredReport):
    """All of an architecture search; ``nas.json``. Latencies in ms, times in seconds."""

    FILE = "nas.json"
    WHAT = "architecture search"
    WAY_OUT = "give the folder that `fxopt nas --out` wrote"

    schema_version: int = 1
    model: str
    metric: str
    original_metric: Real
    training: tuple[str, ...]
    """The passes that made the supernet."""
    widths: list[str]
    branches: list[str]
    whole_drop: Real
    """By how much the largest sub-network, the trained whole, is below the original, on the validation split."""
    notes: list[str]
    targets: list[TargetReport]
    seconds: float
