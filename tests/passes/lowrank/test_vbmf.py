"""The rank by variational Bayes, against its free energy minimised by brute force."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize

from fxopt.passes.lowrank.vbmf import _free_energy, threshold, vbmf_rank

SHAPES = ((6, 6), (5, 12), (20, 70))


def component(gamma, rows, columns, variance):
    """Twice the free energy that one component adds, at its minimum: eq. of the posterior, variances of priors put in.

    Posteriors of the component's vectors are Gaussians with means of norm a and b and variances s and t; the prior
    variances have their best value, ‖a‖²/M + s and ‖b‖²/L + t. Without the component it is 0.
    """

    def energy(logs):
        a, s, t = np.exp(np.clip(logs, -40, 40))  # the scales of the two vectors can be shifted: b = a
        fit = -2 * gamma * a * a + (a * a + columns * s) * (a * a + rows * t)
        return columns * math.log1p(a * a / (columns * s)) + rows * math.log1p(a * a / (rows * t)) + fit / variance

    best = 0.0
    for share in (0.3, 0.7, 0.95):
        start = np.log([math.sqrt(share * gamma), variance / gamma, variance / gamma])
        best = min(best, minimize(energy, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11}).fun)
    return best


def free_energy(gammas, rows, columns, variance):
    rest = rows * columns * math.log(2 * math.pi * variance) + float((gammas**2).sum()) / variance
    return rest + sum(component(g, rows, columns, variance) for g in gammas)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_a_component_is_kept_where_its_singular_value_lowers_the_free_energy(rows, columns):
    small, large = sorted((rows, columns))
    edge = math.sqrt(large * threshold(small / large))
    assert component(edge * 0.995, rows, columns, 1.0) > -1e-6
    assert component(edge * 1.005, rows, columns, 1.0) < -1e-6
    turn = brentq(lambda g: component(g, rows, columns, 1.0) + 1e-7, edge * 0.9, edge * 1.1, xtol=1e-4)
    assert turn == pytest.approx(edge, rel=1e-3)


def test_the_free_energy_differs_by_a_constant_from_the_one_by_brute_force():
    rows, columns = 5, 12
    gammas = np.array([30.0, 14.0, 6.0, 3.0, 1.5])
    alpha = rows / columns
    differences = []
    for variance in (0.2, 0.5, 1.0, 2.0, 5.0):
        ours = _free_energy(gammas**2 / columns / variance, alpha, threshold(alpha))
        differences.append(free_energy(gammas, rows, columns, variance) - columns * ours)
    assert np.ptp(differences) < 1e-3


def test_the_rank_is_that_of_the_least_free_energy_over_a_grid_of_noise_variances():
    rows, columns = 5, 8
    random = np.random.default_rng(3)
    for rank, noise in ((1, 0.3), (0, 1.0)):
        product = random.normal(size=(rows, rank)) @ random.normal(size=(rank, columns)) * 2
        gammas = np.linalg.svd(product + noise * random.normal(size=(rows, columns)), compute_uv=False)
        mean = float((gammas**2).sum()) / (rows * columns)
        grid = np.geomspace(mean / 1e3, mean, 16)
        best = min(grid, key=lambda v: free_energy(gammas, rows, columns, v))
        kept = sum(component(g, rows, columns, best) < -1e-6 for g in gammas)
        assert vbmf_rank(gammas, rows, columns) == kept


@pytest.mark.parametrize("rank", [0, 1, 5, 12])
def test_a_planted_rank_is_found_whatever_the_scale_and_the_order_of_sides(rank):
    random = np.random.default_rng(rank)
    matrix = random.normal(size=(60, rank)) @ random.normal(size=(rank, 150)) + 0.5 * random.normal(size=(60, 150))
    gammas = np.linalg.svd(matrix, compute_uv=False)
    assert vbmf_rank(gammas, 60, 150) == vbmf_rank(gammas * 1e-6, 150, 60) == rank


def test_exact_low_rank_and_zero():
    assert vbmf_rank(np.zeros(4), 4, 9) == 0
    assert vbmf_rank(np.array([3.0, 2.0, 0.0, 0.0, 0.0]), 5, 9) == 2
