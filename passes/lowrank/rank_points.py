"""The choices that a weight has: chains from high to low ranks, with what each loses and costs."""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch

from fxopt.passes.lowrank.chain import Chain, Price
from fxopt.passes.lowrank.spectrum import squares, tails
from fxopt.passes.lowrank.split_weight import SplitWeight

Form = Literal["channel", "spatial", "tucker", "train", "cp"]
"""How convolutions are split; see :mod:`fxopt.passes.lowrank.split_weight`."""

_POINTS = 256


@dataclass(frozen=True)
class Point:
    """A chain, the share of the weight's squares that it loses (an upper bound for several cuts), and its cost."""

    chain: Chain
    error: float
    size: int
    macs: int
    params: int


@dataclass(frozen=True, eq=False)
class Choices:
    """A weight with the spectra ``[groups, full rank]`` at the cuts of a form, and what chains of it cost."""

    weight: SplitWeight
    price: Price
    spectra: dict[int, torch.Tensor]
    multiple: int = 1

    @property
    def dense(self) -> Point:
        """The weight as it is."""
        return self._point(Chain(), {})

    def with_ranks(self, ranks: dict[int, int]) -> Point | None:
        """The cheapest chain with such ranks, rounded up to the multiple; None if none is smaller than the weight."""
        weight = self.weight
        step = self.multiple // math.gcd(self.multiple, weight.groups)
        ranks = {cut: min(weight.full(cut), step * math.ceil(max(1, r) / step)) for cut, r in ranks.items()}
        chain = self.price.cheapest(ranks)
        return self._point(chain, self._lost) if chain.cuts else None

    def by_loss(self, share: float) -> Point | None:
        """The chain with the least ranks that lose no more than ``share`` of the squares at each cut."""
        return self.with_ranks({cut: int((lost > share).sum()) for cut, lost in self._lost.items()})

    def all(self) -> list[Point]:
        """Up to 256 chains, evenly spread over the losses that make a difference, from the dearest to the cheapest."""
        shares = self._shares[:: -math.ceil(len(self._shares) / _POINTS)]  # the cheapest is among them
        found = [self.by_loss(share) for share in reversed(shares)]
        return [point for point in found if point is not None]

    def largest(self, limit: float) -> Point | None:
        """The chain that loses least of those of no larger size than that; None if there is none."""
        size = lambda share: point.size if (point := self.by_loss(share)) else math.inf  # noqa: E731
        first = bisect.bisect_left(self._shares, -limit, key=lambda share: -size(share))  # more lost is never larger
        return self.by_loss(self._shares[first]) if first < len(self._shares) else None

    @functools.cached_property
    def _shares(self) -> list[float]:
        """The losses at which a rank changes, ascending."""
        return sorted({float(x) for lost in self._lost.values() for x in lost[1:]})

    @functools.cached_property
    def _lost(self) -> dict[int, torch.Tensor]:
        """By cut, the share of the squares of all groups that is lost at every rank."""
        sums = {cut: tails(values.sum(0)) for cut, values in self.spectra.items()}
        return {cut: lost / lost[0] for cut, lost in sums.items()}

    def _point(self, chain: Chain, lost: dict[int, torch.Tensor]) -> Point:
        pieces = chain.pieces(self.weight)
        error = sum(float(lost[cut][rank]) for cut, rank in zip(chain.cuts, chain.ranks, strict=True))
        return Point(chain, error, self.price.size(pieces), self.price.macs(pieces), self.price.params(pieces))


def choices(weight: SplitWeight, price: Price, canonical: torch.Tensor, form: Form, multiple: int) -> Choices | str:
    """The choices of a weight, given ``[groups, *modes]``, whitened perhaps; or the reason why it has none."""
    last = len(weight.wide) + 1
    cuts = {
        "channel": (last,),
        "spatial": tuple(range(2, last)) if last > 1 else (1,),
        "tucker": (1, last) if last > 1 else (1,),
        "train": tuple(range(1, last + 1)),
        "cp": (1,),  # of a matrix
    }[form]
    if not cuts:
        return "its kernel is long in one dim only, so there is no spatial split; channel, tucker or train split it"
    return Choices(weight, price, {cut: squares(canonical, cut) for cut in cuts}, multiple)
