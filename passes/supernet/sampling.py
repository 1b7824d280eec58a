"""Sub-networks drawn at random, such that their MACs are spread evenly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxopt.passes.supernet.costs import Costs
from fxopt.passes.supernet.elastic import ElasticProgram
from fxopt.passes.supernet.space import Space, Subnet

_POOL, _BINS = 512, 12

SHARES = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Shares of a width that sub-networks use, unless other ones are asked for."""


def choices(space: Space, shares: Sequence[float]) -> tuple[tuple[int, ...], ...]:
    """Of each width the numbers of units to choose from, ascending: these shares of all, at least one, and all."""
    return tuple(
        tuple(sorted({len(w.atoms), *(max(1, round(share * len(w.atoms))) for share in shares)})) for w in space.widths
    )


class Sampler:
    """Draws sub-networks: first a range of MACs, each as likely as the other, then one of those in it.

    Widths drawn independently would nearly all come to the same MACs, in the middle (Wang et al. 2021, AttentiveNAS,
    section 3). A pool is drawn once: the widths of each member are near a level of its own. None has fewer MACs than the
    share ``least`` of the whole; the cheapest of them is ``smallest``.
    """

    def __init__(self, elastic: ElasticProgram, offered: Sequence[Sequence[int]], least: float, seed: int) -> None:
        random = np.random.default_rng(seed)
        costs = Costs(elastic)
        whole = elastic.space.whole
        pool = {elastic.canonical(_near(elastic.space, offered, random)) for _ in range(_POOL)} | {whole}
        pool = {subnet for subnet in pool if costs.macs(subnet) >= least * costs.macs(whole)}
        members = sorted(pool, key=lambda s: (costs.macs(s), s.widths, s.off))
        self.smallest = members[0]
        counts = np.array([costs.macs(s) for s in members], float)
        edges = np.linspace(counts.min(), counts.max(), _BINS + 1)[1:-1]
        number = np.digitize(counts, edges)
        self._seed = seed
        self._bins = [[members[i] for i in np.flatnonzero(number == n)] for n in np.unique(number)]

    def draw(self, step: int, count: int) -> list[Subnet]:
        """``count`` sub-networks, always the same for a step."""
        random = np.random.default_rng((self._seed, step))
        found = []
        for _ in range(count):
            members = self._bins[random.integers(len(self._bins))]
            found.append(members[random.integers(len(members))])
        return found


def _near(space: Space, offered: Sequence[Sequence[int]], random: np.random.Generator) -> Subnet:
    level, spread = random.random(), random.uniform(0.05, 0.5)
    widths = []
    for counts in offered:
        share = np.clip(level + spread * random.standard_normal(), 0, 1)
        widths.append(counts[round(share * (len(counts) - 1))])
    gone = random.random() * (1 - level)
    return Subnet(tuple(widths), tuple(i for i in range(len(space.layers)) if random.random() < gone))
