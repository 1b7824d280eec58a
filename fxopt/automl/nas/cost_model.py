"""The cost of sub-networks, latency or cycles, from some that are known: linear in MACs and elements by kind of layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import nnls

Features = Mapping[str, float]


class CostModel:
    """Non-negative least squares of the relative error (Lawson & Hanson 1974, chapter 23), with a constant.

    Kernels of one kind of layer take about as long for each MAC; the unexplained rest shows in ``error``, the mean relative
    error over the known ones, each predicted by a fit without it. Fewer than three are predicted by their mean.
    """

    def __init__(self, known: list[tuple[Features, float]]) -> None:
        self._kinds = sorted({kind for features, _ in known for kind in features})
        self._known = known
        self._weights = self._fit(known)

    def predict(self, features: Features) -> float:
        """Milliseconds, or cycles."""
        return self._of(self._weights, features)

    def shares(self, features: Features) -> dict[str, float]:
        """What each kind of layer has of the predicted cost, the largest first; "each call" is what all cost alike."""
        parts = self._weights * np.array(self._row(features))
        shares = dict(zip(["each call", *self._kinds], (parts / max(parts.sum(), 1e-300)).tolist(), strict=True))
        return {kind: share for kind, share in sorted(shares.items(), key=lambda item: -item[1]) if share > 0}

    @property
    def error(self) -> float:
        """Mean relative error of predictions of known ones that were left out."""
        errors = []
        for i, (features, cost) in enumerate(self._known):
            weights = self._fit(self._known[:i] + self._known[i + 1 :])
            errors.append(abs(self._of(weights, features) / cost - 1))
        return float(np.mean(errors))

    def _fit(self, known: list[tuple[Features, float]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        if len(known) < 3:
            mean = np.mean([cost for _, cost in known]) if known else 0.0
            return np.array([float(mean)] + [0.0] * len(self._kinds))
        rows = np.array([self._row(features) for features, _ in known])
        costs = np.array([cost for _, cost in known])
        scale = np.maximum(rows.max(0), 1e-12)
        found, _ = nnls(rows / scale / costs[:, None], np.ones(len(costs)))
        weights: np.ndarray[tuple[int], np.dtype[np.float64]] = found / scale
        return weights

    def _of(self, weights: np.ndarray[tuple[int], np.dtype[np.float64]], features: Features) -> float:
        return float(weights @ self._row(features))

    def _row(self, features: Features) -> list[float]:
        return [1.0, *(features.get(kind, 0.0) for kind in self._kinds)]
