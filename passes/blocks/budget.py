"""What each block becomes within a budget of MACs or of measured latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxopt import Context, Program
from fxopt.automl.goals import Limit
from fxopt.errors import BudgetError
from fxopt.ir.cost import cost
from fxopt.pass_manager.block_entry import BlockEntry
from fxopt.passes.blocks.added_costs import Chosen
from fxopt.passes.blocks.block import Block
from fxopt.passes.blocks.candidate_latency import exchanged, latency_ratios, measure
from fxopt.passes.blocks.candidates import Candidate, undominated
from fxopt.passes.blocks.library import Library
from fxopt.passes.blocks.planner import Planner, Raced, cheapest
from fxopt.passes.common.latency_budget import read_latency, share_left

_HALF = 0.5
_NOISE = 0.005
"""A saving below this share of the whole is taken for measurement noise."""


@dataclass(frozen=True)
class BlockBudget:
    """What may be left: ``macs`` as a share up to 1 or a number, or a limit of ``latency``.

    Without either, half of the MACs, or as near as it gets.
    """

    macs: float | None = None
    latency: Limit | None = None

    @classmethod
    def read(cls, macs: float | None, latency: str | None, who: str) -> BlockBudget:
        """Of the options of a pass; ``latency`` is ``0.5x`` or ``3ms``. Raises OptionError."""
        return cls(macs, read_latency(latency, who))

    @property
    def given(self) -> bool:
        """Whether it has to be met."""
        return self.macs is not None or self.timed

    @property
    def timed(self) -> bool:
        """Whether it is of latency."""
        return self.latency is not None

    def limit(self, whole: Program, context: Context, dense: int, who: str) -> float:
        """The budget as a share of what a program costs, which has ``dense`` MACs."""
        if self.latency is not None:
            return share_left(self.latency, whole, context, f"{who}: latency")
        macs = _HALF if self.macs is None else self.macs
        return macs if macs <= 1 else macs / dense


def within_budget(
    budget: BlockBudget,
    context: Context,
    library: Library,
    found: Sequence[Block],
    entries: Sequence[BlockEntry],
    who: str,
) -> list[Candidate]:
    """What each block becomes so that the budget holds. Raises BudgetError."""
    program, whole, timed = library.program, library.teacher.program, budget.timed
    dense = max(1, cost(whole).macs)
    limit = budget.limit(whole, context, dense, who)
    if limit >= 1:
        return []
    candidates = library.built(found, entries, timed=timed)
    if timed:  # first of all: what saves no time is not trained
        measure(whole, context, candidates, f"{who}: latency")
        candidates = [c for c in candidates if c.latency is not None and c.latency < -_NOISE]
    unit = "latency" if timed else "MACs"

    def added(candidate: Candidate) -> float:
        return candidate.macs / dense if candidate.latency is None else candidate.latency

    def costs(choices: Sequence[Chosen]) -> list[float]:
        if not timed:  # blocks share no node, so MACs add up
            return [1 + sum(sorted(map(added, chosen))) for chosen in choices]
        models = {str(i): exchanged(whole, chosen) for i, chosen in enumerate(choices)}
        ratios = latency_ratios(whole, context, models, f"{who}: latency")
        return [ratios[name] for name in models]

    least = 1 + sum(sorted(map(added, cheapest(candidates, added))))
    if limit < least and budget.given:
        raise BudgetError(
            f"{who}: {unit} come{'s' * timed} down to {least:.3g} of the whole with every block as cheap as it gets, the "
            f"budget is {limit:.3g}",
            way_out="allow more: more entries, fewer names in keep, or prune after it",
        )
    candidates = undominated(library.scored(library.trained(candidates, added)), added)
    planner = Planner(whole, library.teacher, candidates, added, costs, exact=not timed)
    best = planner.run(max(limit, least * (1 + 1e-9)))
    _report(program, planner.raced, best, unit)
    if best is None and budget.given:
        nearest = min((raced.cost for raced in planner.raced), default=1.0)
        raise BudgetError(
            f"{who}: what was predicted to hold the budget of {limit:.3g} of the {unit} came to {nearest:.3g} as measured",
            way_out="allow more, or measure on a machine that does nothing else",
        )
    for candidate in sorted(best.chosen if best else (), key=lambda c: c.block.name):
        saved = f"saves {-added(candidate):.1%} of the {unit}"
        count = sum(c.block is candidate.block for c in candidates)
        why = f"of {count} forms, loses {candidate.divergence:.3g} alone and {saved}"
        program.chose(candidate.block.name, str(candidate.form), why)
    return list(best.chosen) if best else []


def _report(program: Program, raced: Sequence[Raced], best: Raced | None, unit: str) -> None:
    for i, choice in enumerate(raced, 1):
        of = f"choice {i} of {len(raced)}, {len(choice.chosen)} blocks" + (", taken" if choice is best else "")
        program.measured(of, "loss", choice.loss, predicted=choice.predicted_loss)
        program.measured(of, f"share of the {unit}", choice.cost, predicted=choice.predicted_cost)
