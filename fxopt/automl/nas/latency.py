"""Latency of sub-networks, from some that were measured: linear in MACs and elements by kind of layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import nnls

Features = Mapping[str, float]


class LatencyModel:
    """Non-negative least squares of the relative error (Lawson & Hanson 1974, chapter 23), with a constant.

    Kernels of one kind of layer take about as long for each MAC; the unexplained rest shows in ``error``, the mean relative
    error over the measured ones, each predicted by a fit without it. Fewer than three are predicted by their mean.
    """

    def __init__(self, measured: list[tuple[Features, float]]) -> None:
        self._kinds = sorted({kind for features, _ in measured for kind in features})
        self._measured = measured
        self._weights = self._fit(measured)

    def predict(self, features: Features) -> float:
        """Milliseconds."""
        return self._of(self._weights, features)

    @property
    def error(self) -> float:
        """Mean relative error of predictions of measured ones that were left out."""
        errors = []
        for i, (features, ms) in enumerate(self._measured):
            weights = self._fit(self._measured[:i] + self._measured[i + 1 :])
            errors.append(abs(self._of(weights, features) / ms - 1))
        return float(np.mean(errors))

    def _fit(self, measured: list[tuple[Features, float]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        if len(measured) < 3:
            mean = np.mean([ms for _, ms in measured]) if measured else 0.0
            return np.array([float(mean)] + [0.0] * len(self._kinds))
        rows = np.array([[1.0, *(features.get(kind, 0.0) for kind in self._kinds)] for features, _ in measured])
        times = np.array([ms for _, ms in measured])
        scale = np.maximum(rows.max(0), 1e-12)
        found, _ = nnls(rows / scale / times[:, None], np.ones(len(times)))
        weights: np.ndarray[tuple[int], np.dtype[np.float64]] = found / scale
        return weights

    def _of(self, weights: np.ndarray[tuple[int], np.dtype[np.float64]], features: Features) -> float:
        return float(weights @ [1.0, *(features.get(kind, 0.0) for kind in self._kinds)])
