"""The rank that empirical variational Bayes finds in a matrix, in closed form."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

_ROUNDING = 1e-14


def vbmf_rank(singular: NDArray[np.float64], rows: int, columns: int) -> int:
    """Rank of a matrix ``[rows, columns]`` with these singular values, by empirical variational Bayes (EVBMF).

    The matrix is taken as a product of factors with Gaussian priors, whose variances and the noise's are estimated too. The
    global minimum of its free energy has the components whose singular value is above σ √(M x̲), where the noise variance
    σ² is the minimum of one function of one variable (Nakajima, Sugiyama, Babacan & Tomioka 2013, "Global analytic solution
    of fully-observed variational Bayesian matrix factorization", theorems 2 and 3, with corollary 1 for the bounds).
    A matrix that cannot be told from noise has rank 0.

    It estimates how many components a matrix has besides noise of equal strength in every element. Weights are no such
    matrices: their singular values fall slowly and without a floor, and those below the threshold matter to the function
    too. So the rank is far below one that keeps the accuracy; it is meant to be followed by training (Kim et al. 2016,
    section 3.1). A budget, or ``energy``, limits the loss instead.
    """
    small, large = sorted((rows, columns))
    values = np.sort(np.asarray(singular, dtype=np.float64))[::-1][:small]
    total = float((values**2).sum())
    if total == 0:
        return 0
    alpha = small / large
    limit = threshold(alpha)
    mean = total / (small * large)
    scaled = np.maximum(values**2 / large, _ROUNDING * mean)  # of exact zeros, the energy would have no minimum
    variance = _noise_variance(scaled, small, alpha, limit, mean)
    return int((scaled > variance * limit).sum())


@functools.cache
def threshold(alpha: float) -> float:
    """x̲: the least square of a singular value, over σ² M, that a component survives with; α = L / M at most 1."""
    phi = lambda z: math.log1p(z) / z - 0.5  # noqa: E731
    tau = brentq(lambda t: phi(t) + phi(t / alpha), 1e-12, 1e3, xtol=1e-14)
    return float((1 + tau) * (1 + alpha / tau))


def _noise_variance(scaled: NDArray[np.float64], small: int, alpha: float, limit: float, mean: float) -> float:
    """The σ² of least free energy, between its bounds; ``scaled`` are squares over M, the largest first."""
    most = min(math.ceil(small / (1 + alpha)) - 1, len(scaled))  # components that can survive
    lowest = scaled[most] / limit if most < len(scaled) else 0.0
    lowest = max(lowest, float(scaled[most:].mean()) if most < len(scaled) else 0.0, _ROUNDING * mean)
    if lowest >= mean:
        return mean
    energy = lambda log: _free_energy(scaled / math.exp(log), alpha, limit)  # noqa: E731
    # smooth between the points where a component appears, so one minimum is looked for between any two of them
    jumps = np.log(scaled / limit)
    low, high = math.log(lowest), math.log(mean)
    edges = np.unique([low, *jumps[(jumps > low) & (jumps < high)], high])
    best = min(edges, key=energy)
    for a, b in itertools.pairwise(edges):
        found = minimize_scalar(energy, bounds=(a, b), method="bounded", options={"xatol": 1e-9})
        best = min(best, float(found.x), key=energy)
    return math.exp(best)


def _free_energy(x: NDArray[np.float64], alpha: float, limit: float) -> float:
    """Ω(σ²), the free energy but for a constant and a factor, of x = γ²/(Mσ²): theorem 3, ψ0 and ψ1."""
    energy = float((x - np.log(x)).sum())
    kept = x[x > limit]
    middle = kept - (1 + alpha)
    tau = (middle + np.sqrt(middle**2 - 4 * alpha)) / 2
    return energy + float((np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau).sum())
