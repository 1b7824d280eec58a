"""The report of a build: its settings, the result of each step, before and after, and the budget. ``report.json``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import AliasChoices, Field

from fxopt.driver.layers import LayerFigures
from fxopt.driver.part import Part, Real
from fxopt.driver.stored_report import StoredReport
from fxopt.runtime.staging import REPORT
from fxopt.support.html import table, words

if TYPE_CHECKING:
    from fxopt.ir.cost import Cost
    from fxopt.ir.memory_planning import MemoryPlan
    from fxopt.pass_manager.step import StepResult
    from fxopt.pass_manager.step_cache import StepCache
    from fxopt.runtime.timing import Timing

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or goes; one that is added leaves it."""


class Latency(Part):
    """Milliseconds a call: median and quartiles over blocks of calls."""

    median_ms: float
    low_ms: float
    high_ms: float
    blocks: int

    @classmethod
    def of(cls, timing: Timing) -> Latency:
        """The figures of a timing."""
        return cls(**timing.to_dict())


class Costs(Part):
    """MACs (``model.macs_of`` says for which inputs), parameters without buffers, scales and zero points, and bytes of all
    weights, or a step's changes of these; ops that MACs could not be counted for.
    """

    macs: int
    parameters: int
    weight_bytes: int
    ops_not_counted: list[str] | None = None

    @classmethod
    def of(cls, cost: Cost) -> Costs:
        """The figures of a cost."""
        return cls(
            macs=cost.macs, parameters=cost.parameters, weight_bytes=cost.bytes,
            ops_not_counted=list(cost.unknown) or None,
        )  # fmt: skip


class Figures(Costs):
    """One side of the comparison, the model before or after: costs of the program, and its artifact as measured.

    The model before is built only to be measured; without that it has no ``file_bytes``.
    """

    file_bytes: int | None = None
    metric: float | None = None
    latency: Latency | None = None
    peak_memory_bytes: int | None = None


class BuiltFigures(Figures):
    """The model after, which is always built."""

    file_bytes: int


class Eager(Part):
    """torch itself, timed side by side."""

    latency: Latency
    threads: int


class SkippedNode(Part):
    """A node that a pass left alone, its source line, and why."""

    node: str
    source: str
    reason: str


class ChosenOption(Part):
    """An option that a pass chose itself."""

    what: str
    value: bool | int | Real | str
    why: str


class MeasuredPart(Part):
    """A figure of a part of the model that a pass measured, and its prediction."""

    of: str
    figure: str
    value: Real
    unit: str
    predicted: Real | None = None


class StepReport(Part):
    """The result of one step, and the findings of watchers: see :class:`fxopt.pass_manager.step.Findings`."""

    pass_: str = Field(validation_alias=AliasChoices("pass_", "pass"), serialization_alias="pass")
    kind: str
    part_of: str | None = None
    changed: bool
    skips: list[SkippedNode]
    choices: list[ChosenOption]
    measurements: list[MeasuredPart] = Field(default_factory=list)
    delta: Costs | None = None
    seconds: float
    error: Real | None = None
    sqnr_db: Real | None = None
    metric: float | None = None
    vacuous: str | None = None
    proof: str | None = None
    """How an exact step was proved: ``local``, by ``regions``, or ``end to end``; ``own precision`` and ``none`` are no proof."""
    regions: int | None = None
    tolerance: Real | None = None
    """Relative error that an exact step was allowed in float64."""
    stored: str | None = None
    """What of the stored program was compared with the replay in float64: its ``weights``, or ``values``."""
    stored_tolerance: Real | None = None
    """Relative error allowed for these."""
    cached: bool = False
    """Taken from the cache; ``seconds`` are those of the original run."""

    @classmethod
    def of(cls, step: StepResult) -> StepReport:
        """The report of a step's result."""
        return cls(
            pass_=step.text, kind=step.kind, part_of=step.part_of, changed=step.changed,
            skips=[SkippedNode(node=s.node, source=s.source, reason=s.reason) for s in step.skips],
            choices=[ChosenOption(what=c.what, value=c.value, why=c.why) for c in step.choices],
            measurements=[MeasuredPart(**vars(m)) for m in step.measurements],
            delta=Costs.of(step.delta) if step.delta else None, seconds=round(step.seconds, 3), cached=step.cached,
            **vars(step.findings),
        )  # fmt: skip


class QuantizedValues(Part):
    """Quantized values of an artifact against the program on their own inputs: how many, how many differ, by how much."""

    codes: int | None = None
    off: int | None = None
    most_steps: int | None = None
    not_checked: str | None = None


class Agreement(Part):
    """How well an artifact agrees with its program."""

    relative_error: Real
    sqnr_db: Real
    values: QuantizedValues | None = None


class BudgetLine(Part):
    """One limit, what was reached, whether it is kept, and a sentence."""

    name: str
    limit: float
    value: float | None = None
    met: bool
    text: str


class Concern(Part):
    """A concern about an artifact: the ratio of latencies or of metrics, after to before; and what to do."""

    kind: Literal["slower_than_float", "smaller_not_faster", "metric_lost"]
    ratio: Real
    text: str
    way_out: str


class ModelFacts(Part):
    """The model as captured."""

    name: str
    signature: str
    notes: list[str]
    macs_of: str
    """``one example`` where the batch is dynamic, else ``the example inputs``."""


class MemoryFacts(Part):
    """Planned bytes: see :class:`fxopt.ir.memory_planning.MemoryPlan`."""

    weights: int
    values: int
    at: str
    largest: list[tuple[str, int]]

    @classmethod
    def of(cls, plan: MemoryPlan) -> MemoryFacts:
        """The figures of a plan."""
        return cls(weights=plan.weights, values=plan.values, at=plan.at, largest=list(plan.largest))


class CacheFacts(Part):
    """Use of the cache: how many steps of how many, and the seconds of passes that this saved; why it is not written."""

    steps: int
    of: int
    seconds_saved: float
    problem: str | None = None

    @classmethod
    def read(cls, steps: Sequence[StepResult], cache: StepCache | None) -> CacheFacts | None:
        """Those of a build; None for one without a cache."""
        if cache is None:
            return None
        found = [step.seconds for step in steps if step.cached]
        return cls(steps=len(found), of=len(steps), seconds_saved=round(sum(found), 3), problem=cache.store.problem)


class TriedCandidate(Part):
    """One candidate of a choice among backends."""

    candidate: str
    backend: str
    form: str
    latency: Latency | None = None
    agreement: Agreement | None = None
    metric: float | None = None
    refused: str | None = None
    passes: list[str] | None = None
    """The passes of its program, where these are not the whole recipe."""


class BackendChoice(Part):
    """Which backend was chosen by measurement, why, and what was tried, the fastest first."""

    chosen: str
    why: str
    tried: list[TriedCandidate]


class BuildReport(StoredReport):
    """All of a build. Sizes are in bytes, times in seconds unless a name says ms; a field is None where it does not apply."""

    FILE = REPORT
    WHAT = "report of a build"
    WAY_OUT = "give the folder that `fxopt build --out` wrote"

    schema_version: int = SCHEMA_VERSION
    model: ModelFacts
    recipe: dict[str, Any]
    backend: dict[str, Any]
    """``text``, the backend with its options, and whatever facts its ``build`` returned."""
    target: dict[str, Any]
    for_target: dict[str, str]
    versions: dict[str, str]
    steps: list[StepReport]
    before: Figures
    after: BuiltFigures
    metric: str | None = None
    """Name of the workload's metric, which is of the test split before and after, and of the validation split in a step."""
    agreement: Agreement | None = None
    eager: Eager | None = None
    choice: BackendChoice | None = None
    memory: MemoryFacts
    budget: list[BudgetLine]
    missed: list[str]
    """The sentences of the limits that are missed."""
    concerns: list[Concern] = Field(default_factory=list)
    """Concerns about a quantized artifact, whatever the budget."""
    not_run: str | None = None
    not_timed: str | None = None
    device: dict[str, Any] | None = None
    cache: CacheFacts | None = None
    seconds: dict[str, float]
    program: str | None = None
    """sha256 of the program that was lowered, to recognize it; None where that cannot be written."""
    layers_before: list[LayerFigures] = Field(default_factory=list)
    """The ops of the model as captured."""
    layers: list[LayerFigures] = Field(default_factory=list)
    """The ops of the program that was lowered, after legalization."""
    folder: str | None = None
    """The folder of the artifact; not in ``report.json`` itself."""

    def unproved(self) -> list[StepReport]:
        """Steps that changed the program without a comparison in float64."""
        return [step for step in self.steps if step.proof in ("own precision", "none")]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The report in the folder of a build. Raises UsageError where there is none, or one of another version."""
        return super().read(folder).model_copy(update={"folder": str(folder)})

    def _repr_html_(self) -> str:
        """Before and after, limits and steps, for a notebook; `fxopt report --html` makes a page of all of it."""
        sides = [(name, getattr(self.before, name), getattr(self.after, name)) for name in Figures.model_fields]
        figures = [row for row in sides if isinstance(row[1], int | float) or isinstance(row[2], int | float)]
        if self.before.latency and self.after.latency:
            figures.append(("latency_ms", self.before.latency.median_ms, self.after.latency.median_ms))
        limits = [(line.name, "kept" if line.met else "missed", line.text) for line in self.budget]
        steps = [(s.pass_, s.kind, "cached" if s.cached else s.seconds, len(s.skips) or "") for s in self.steps]
        return (
            words(f"{self.model.name} for {self.target.get('name', 'a target')} by {self.backend.get('text', '')}")
            + table(("", "before", "after"), figures)
            + (table(("limit", "", ""), limits) if limits else "")
            + table(("pass", "kind", "seconds", "left alone"), steps)
        )
