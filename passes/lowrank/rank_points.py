"""The choices for a weight: chains from high to low ranks, with the loss and cost of each."""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from fxopt.passes.common.singular_values import squares, tails
from fxopt.passes.common.weight_modes import SplitWeight
from fxopt.passes.lowrank.chain import Chain, Price
from fxopt.passes.lowrank.whitening import Whitening

Form = Literal["channel", "spatial", "tucker", "train", "cp"]
"""How convolutions are split; see :mod:`fxopt.passes.common.weight_modes`."""

FORMS: tuple[Form, ...] = ("channel", "spatial", "tucker", "train")
"""Those whose ranks can be read off singular values."""

_POINTS = 256
_SHARES = (0.75, 0.6, 0.45, 0.35, 0.25, 0.15, 0.08)
"""Sizes, relative to the layer's, at which costly measurements are made."""


@dataclass(frozen=True)
class Point:
    """A chain of a form, the share of the weight's squares that it loses (an upper bound for several cuts), and its cost.

    ``ms`` is the measured latency of the layer, 0 where it was not measured.
    """

    form: Form
    chain: Chain
    error: float
    size: int
    macs: int
    params: int
    ms: float = 0.0


@dataclass(frozen=True, eq=False)
class Choices:
    """A weight in one form: the tensor ``[groups, *modes]`` to decompose, whitened where there is a whitening; spectra
    ``[groups, full rank]`` at the cuts of the form; and what chains of it cost.
    """

    weight: SplitWeight
    price: Price
    form: Form
    tensor: torch.Tensor
    whitening: Whitening | None
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
        price = self.price
        return Point(self.form, chain, error, price.size(pieces), price.macs(pieces), price.params(pieces))


@dataclass(frozen=True, eq=False)
class Alternatives:
    """The choices of a weight in one form or several."""

    forms: dict[Form, Choices]

    @property
    def weight(self) -> SplitWeight:
        """The weight."""
        return next(iter(self.forms.values())).weight

    @property
    def dense(self) -> Point:
        """The weight as it is."""
        return next(iter(self.forms.values())).dense

    def smallest(self, pick: Callable[[Choices], Point | None]) -> Point | None:
        """Of what is picked in each form the point of least size."""
        return min(self._picked(pick), key=lambda point: (point.size, point.error), default=None)

    def nearest(self, pick: Callable[[Choices], Point | None]) -> Point | None:
        """Of what is picked in each form the point that loses least."""
        return min(self._picked(pick), key=lambda point: (point.error, point.size), default=None)

    def largest(self, limit: float) -> Point | None:
        """The point that loses least of those of no larger size than that; None if there is none."""
        return self.nearest(lambda choices: choices.largest(limit))

    def _picked(self, pick: Callable[[Choices], Point | None]) -> list[Point]:
        return [point for choices in self.forms.values() if (point := pick(choices)) is not None]

    def all(self) -> list[Point]:
        """The points of all forms."""
        return [point for choices in self.forms.values() for point in choices.all()]

    def few(self) -> list[Point]:
        """Some points for costly measurements, evenly spread over the sizes: of each size the one that loses least."""
        return self._spread(lambda limit: [self.largest(limit)])

    def short(self) -> list[Point]:
        """As :meth:`few`, and with those of fewer layers that lose more, which may be faster."""

        def least(limit: float) -> list[Point | None]:
            points = sorted(self._picked(lambda c: c.largest(limit)), key=lambda p: (len(p.chain.cuts), p.error))
            return [p for i, p in enumerate(points) if all(p.error < other.error for other in points[:i])]

        return self._spread(least)

    def _spread(self, pick: Callable[[float], list[Point | None]]) -> list[Point]:
        found = [point for share in _SHARES for point in pick(share * self.dense.size)]
        return list({(point.form, point.chain): point for point in found if point is not None}.values())


def choices(
    weight: SplitWeight, price: Price, tensor: torch.Tensor, whitening: Whitening | None, form: Form, multiple: int
) -> Choices | str:
    """The choices of a weight in one form, or the reason why it has none."""
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
    spectra = {cut: squares(tensor, cut) for cut in cuts}
    return Choices(weight, price, form, tensor, whitening, spectra, multiple)
