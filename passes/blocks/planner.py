"""What each block becomes within a budget: solved, built, measured, the model corrected, and solved again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fxopt.ir.program import Program
from fxopt.passes.blocks.added_costs import AddedCosts, Chosen
from fxopt.passes.blocks.block_choice import Term, choose
from fxopt.passes.blocks.candidate_latency import exchanged
from fxopt.passes.blocks.candidates import Candidate
from fxopt.passes.blocks.teacher import Teacher

_ROUNDS, _MOST_ROUNDS = 3, 8
"""Rounds, and as many as there may be until a choice keeps the budget as measured and the next round finds none better."""
_RACED = 4
"""Choices that are built in a round."""
_PREFIXES = 8
"""Sets of removed branches for which the rest is solved."""
_PAIRS = 8
"""Neighbours that are measured in a round."""


@dataclass(frozen=True, eq=False)
class Raced:
    """A choice that was built: the divergence of its outputs and its cost as a share, predicted and measured."""

    chosen: Chosen
    loss: float
    cost: float
    predicted_loss: float
    predicted_cost: float


class Planner:
    """Chooses among candidates whose ``divergence`` is known.

    ``added`` is what a candidate adds to the cost of the net, as a share, and ``cost`` measures that of whole choices, in
    one run; where they are ``exact`` the one is the sum of the others. Divergences do not add up where much changes:
    branches to remove are chosen greedily, each given those before it (of 32 layers scored one by one and dropped together,
    accuracy 0.50; ranked jointly, 0.73: NVIDIA's Puzzletron); the rest is a linear program with terms for neighbours, and
    what is best for the limit and for some costs below it is built and measured.
    """

    def __init__(
        self,
        program: Program,
        teacher: Teacher,
        candidates: Sequence[Candidate],
        added: Callable[[Candidate], float],
        cost: Callable[[Sequence[Chosen]], list[float]],
        *,
        exact: bool = False,
    ) -> None:
        self._program, self._teacher, self._cost = program, teacher, cost
        self._added = AddedCosts({candidate: added(candidate) for candidate in candidates}, exact=exact)
        self._loss = {c: c.loss for c in candidates}
        self._groups, self._crossed = _grouped(candidates)
        self._pairs: dict[tuple[Candidate, Candidate], float] = {}
        self.raced: list[Raced] = []

    def run(self, limit: float) -> Raced | None:
        """The choice of least divergence whose measured cost is at most ``limit``; None where none built is."""
        prefixes = self._prefixes(limit)
        best: Raced | None = None
        for done in range(_MOST_ROUNDS):
            before, best = best, self._best(limit)
            if best is not None and best is before and done >= _ROUNDS:
                break
            solutions = self._solutions(prefixes, limit)
            if best is None:  # where not even the cheapest is predicted to hold it, that is built all the same
                solutions = solutions or self._cheapest()
            hopeful = [s for s in solutions if best is None or s[1] < best.loss]
            if not hopeful:
                break
            self._race(hopeful)
            self._measure_pairs()
        return self._best(limit)

    def _best(self, limit: float) -> Raced | None:
        fitting = [r for r in self.raced if r.cost <= limit]
        return min(fitting, key=lambda r: r.loss + sum(c.loss_of_ops for c in r.chosen), default=None)

    def _prefixes(self, limit: float) -> list[tuple[list[Candidate], float]]:
        """Branches to remove, one more each time, with the divergence of all of them together.

        The next is the one that loses least for what it saves. The one that was best before is evaluated again, given those
        already removed, until one stays best (lazy greedy selection; Minoux 1978).
        """
        found: list[tuple[list[Candidate], float]] = [([], 0.0)]
        saved = {c: -self._added[frozenset({c})] for c in self._loss if c.is_off}
        left = {c: self._loss[c] for c, share in saved.items() if share > 0}
        while left and self._added.predict(found[-1][0]) > limit:
            gone, loss = found[-1]
            tried: set[Candidate] = set()
            while (best := min(left, key=lambda c: left[c] / saved[c])) not in tried and gone:
                left[best] = self._divergence([*gone, best]) - loss
                tried.add(best)
            total = self._divergence([*gone, best])
            found.append(([*gone, best], total))
            left = {c: more for c, more in left.items() if not c.block.overlaps(best.block)}
        return found[:: -math.ceil(len(found) / _PREFIXES)]

    def _divergence(self, chosen: Iterable[Candidate]) -> float:
        return self._teacher.divergence(exchanged(self._program, chosen, shapes=False))

    def _solutions(self, prefixes: Sequence[tuple[list[Candidate], float]], limit: float) -> list[tuple[Chosen, float]]:
        """The best choices that were not built yet, with their predicted divergence: for the limit, and for ever less.

        Each time for half a standard deviation less of what is predicted to hold the limit, as of what is predicted to cost
        as much that is chosen which is predicted to cost too little.
        """
        found: dict[Chosen, float] = {}
        known = {r.chosen for r in self.raced}
        step = 0.0
        for i in range(_RACED):
            solved = [(frozenset(gone) | more, loss + self._predicted_loss(more))
                      for gone, loss in prefixes
                      if (more := self._solved(gone, limit - i * step, known)) is not None]  # fmt: skip
            if not solved:
                break
            chosen, found_loss = min(solved, key=lambda pair: pair[1])
            found[chosen] = found_loss
            known.add(chosen)
            if i == 0:
                room = limit - self._added.predict(self._chosen_cheapest())
                step = min(self._added.deviation(chosen) / 2, room / _RACED)
        return list(found.items())

    def _solved(self, gone: Sequence[Candidate], limit: float, known: Iterable[Chosen]) -> Chosen | None:
        """The best choice for the other blocks, besides the removed branches; none of those known."""
        free = [g for g, group in enumerate(self._groups) if not any(group[0].block.overlaps(c.block) for c in gone)]
        options = {g: [c for c in self._groups[g] if not c.is_off] for g in free}
        free = [g for g in free if options[g]]
        place = {c: (i, k) for i, g in enumerate(free) for k, c in enumerate(options[g])}
        terms = [[Term(self._loss[c], self._added[frozenset({c})]) for c in options[g]] for g in free]
        crossed = [(free.index(a), free.index(b)) for a, b in self._crossed if a in free and b in free]
        pairs = {
            (place[a], place[b]): Term(loss, self._added[frozenset({a, b})])
            for (a, b), loss in self._pairs.items()
            if a in place and b in place
        }
        others = [
            frozenset(place[c] for c in chosen if c in place)
            for chosen in known
            if {c for c in chosen if c.is_off} == set(gone) and all(c in place for c in chosen - set(gone))
        ]
        found = choose(terms, crossed, pairs, limit - self._added.predict(gone), others)
        return None if found is None else frozenset(options[free[i]][k] for i, k in found)

    def _cheapest(self) -> list[tuple[Chosen, float]]:
        """The choice of least predicted cost, unless it was built."""
        chosen = self._chosen_cheapest()
        return [] if any(r.chosen == chosen for r in self.raced) else [(chosen, self._predicted_loss(chosen))]

    def _chosen_cheapest(self) -> Chosen:
        return cheapest(list(self._loss), lambda c: self._added[frozenset({c})])

    def _race(self, solutions: Sequence[tuple[Chosen, float]]) -> None:
        costs = self._cost([chosen for chosen, _ in solutions])
        for (chosen, predicted), cost in zip(solutions, costs, strict=True):
            share = self._added.predict(chosen)
            self.raced.append(Raced(chosen, self._divergence(chosen), cost, predicted, share))
        self._added.correct((chosen, cost) for (chosen, _), cost in zip(solutions, costs, strict=True))

    def _measure_pairs(self) -> None:
        """Set the pair terms of neighbours in what was built: the effect of both, less the sum of each alone."""
        met = [
            (a, b)
            for raced in self.raced
            for a, b in itertools.permutations(raced.chosen, 2)
            if a.block.end == b.block.source and (a, b) not in self._pairs and not (a.is_off or b.is_off)
        ]
        new = sorted(dict.fromkeys(met), key=lambda pair: (str(pair[0]), str(pair[1])))[:_PAIRS]
        if not new:
            return
        self._pairs |= {(a, b): self._divergence([a, b]) - self._loss[a] - self._loss[b] for a, b in new}
        both = [frozenset(pair) for pair in new]
        self._added.correct(zip(both, self._cost(both), strict=True), pairs=both)

    def _predicted_loss(self, chosen: Chosen) -> float:
        both = (loss for pair, loss in self._pairs.items() if chosen.issuperset(pair))
        return sum(sorted(self._loss[c] for c in chosen)) + sum(both)


def cheapest(candidates: Sequence[Candidate], added: Callable[[Candidate], float]) -> Chosen:
    """The choice that adds least to the cost."""
    groups, crossed = _grouped(candidates)
    terms = [[Term(added(c), added(c)) for c in group] for group in groups]
    found = choose(terms, crossed, {}, math.inf) or frozenset()
    return frozenset(groups[g][k] for g, k in found)


def _grouped(candidates: Sequence[Candidate]) -> tuple[list[list[Candidate]], list[tuple[int, int]]]:
    """The candidates of each block, and the pairs of blocks that share nodes."""
    blocks = list({c.block.name: c.block for c in candidates}.values())
    pairs = itertools.combinations(range(len(blocks)), 2)
    crossed = [(i, k) for i, k in pairs if blocks[i].overlaps(blocks[k])]
    return [[c for c in candidates if c.block is block] for block in blocks], crossed
