"""What candidates add to the cost of a net: as measured one by one, corrected by the choices that were built."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from fxopt.passes.blocks.candidates import Candidate

Chosen = frozenset[Candidate]

_COMMON, _OWN = 0.5, 0.25
"""Standard deviations of the factors that what was measured alone is wrong by: of one for all, and of one for each."""
_ALONE, _NOISE = 0.01, 0.005
"""Standard deviations of measured costs, as shares of the whole: of candidates alone, the luckiest of which are chosen, and of
choices."""


class AddedCosts:
    """The cost of a net as a share of the whole, 1 + Σ a over what was chosen, with a Gaussian belief about each a.

    At first a candidate adds what was measured with it ``alone``. That may be wrong by a factor that all have in common, as
    where each saves memory traffic that the others save too, and by one of its own; by luck, as those are chosen that were
    timed at a good moment; and a pair of neighbours may add something of itself, as where a layout is kept between them.
    Each choice that is measured corrects them all (the posterior of Bayesian linear regression; Rasmussen & Williams 2006,
    equation 2.8). ``exact`` costs add up, and are never corrected.
    """

    def __init__(self, alone: Mapping[Candidate, float], *, exact: bool = False) -> None:
        self._place: dict[Chosen, int] = {frozenset({c}): i for i, c in enumerate(alone)}
        self._prior = list(alone.values())
        self._common = 0.0 if exact else _COMMON
        self._own = [0.0 if exact else math.hypot(_OWN * cost, _ALONE) for cost in self._prior]
        self._measured: list[tuple[Chosen, float]] = []
        self._fit()

    def __getitem__(self, term: Chosen) -> float:
        """What a candidate or a measured pair adds, as a share of the whole."""
        return float(self._mean[self._place[term]])

    def predict(self, chosen: Iterable[Candidate]) -> float:
        """The cost with all of these, as a share of the whole."""
        return 1 + float(self._row(frozenset(chosen)) @ self._mean)

    def deviation(self, chosen: Iterable[Candidate]) -> float:
        """The standard deviation of :meth:`predict`."""
        row = self._row(frozenset(chosen))
        return float(np.sqrt(max(row @ self._covariance @ row, 0.0)))

    def correct(self, measured: Iterable[tuple[Chosen, float]], pairs: Iterable[Chosen] = ()) -> None:
        """Take in measured costs, as shares of the whole; from now on these ``pairs`` may add something of themselves."""
        for pair in pairs:
            self._own.append(sum(self._own[self._place[frozenset({c})]] for c in pair))
            self._place[pair] = len(self._prior)
            self._prior.append(0.0)
        self._measured += measured
        self._fit()

    def _fit(self) -> None:
        prior = np.array(self._prior)
        self._mean, self._covariance = prior, self._common**2 * np.outer(prior, prior) + np.diag(np.square(self._own))
        if not self._measured:
            return
        rows = np.array([self._row(chosen) for chosen, _ in self._measured])
        saved = np.array([cost - 1 for _, cost in self._measured])
        shared = self._covariance @ rows.T
        gain = np.linalg.solve(rows @ shared + _NOISE**2 * np.eye(len(rows)), shared.T).T
        self._mean = prior + gain @ (saved - rows @ prior)
        self._covariance = self._covariance - gain @ shared.T

    def _row(self, chosen: Chosen) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([float(term <= chosen) for term in self._place])
