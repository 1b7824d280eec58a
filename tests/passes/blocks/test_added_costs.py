"""The latency model of exchanged blocks, against the same posterior by least squares, and against costs that it must find."""

import numpy as np
import pytest

from fxopt.passes.blocks import added_costs
from fxopt.passes.blocks.added_costs import AddedCosts


class Candidate:
    """Stands for one: the model looks at nothing of it."""


def alone(count, draw):
    return {Candidate(): -draw.uniform(0.01, 0.1) for _ in range(count)}


def test_the_posterior_minimises_the_weighted_squares():
    """argmin |(y - X a)/noise|² + (a - m)' S⁻¹ (a - m), as one least-squares problem with the Cholesky factor of S⁻¹."""
    draw = np.random.default_rng(0)
    prior = alone(6, draw)
    model, every = AddedCosts(prior), list(prior)
    chosen = [frozenset(draw.choice(every, 3, replace=False)) for _ in range(4)]
    measured = [(c, 1 + 0.7 * sum(prior[k] for k in c)) for c in chosen]
    pair = frozenset(every[:2])
    model.correct([*measured, (pair, 0.9)], pairs=[pair])

    terms = [*(frozenset({c}) for c in every), pair]
    mean = np.array([*prior.values(), 0.0])
    own = np.hypot(added_costs._OWN * mean, added_costs._ALONE)
    own[-1] = own[0] + own[1]
    spread = added_costs._COMMON**2 * np.outer(mean, mean) + np.diag(own**2)
    root = np.linalg.cholesky(np.linalg.inv(spread)).T
    seen = [*measured, (pair, 0.9)]
    rows = np.array([[float(t <= c) for t in terms] for c, _ in seen]) / added_costs._NOISE
    saved = np.array([cost - 1 for _, cost in seen]) / added_costs._NOISE
    found, *_ = np.linalg.lstsq(np.vstack([rows, root]), np.concatenate([saved, root @ mean]), rcond=None)
    assert [model[t] for t in terms] == pytest.approx(found, abs=1e-9)


def test_a_factor_that_all_have_in_common_is_found_from_a_few_choices():
    draw = np.random.default_rng(1)
    prior = alone(12, draw)
    model, every = AddedCosts(prior), list(prior)

    def real(chosen):
        return 1 + 0.6 * sum(prior[c] for c in chosen)

    whole = frozenset(every)
    assert abs(model.predict(whole) / real(whole) - 1) > 0.3
    before = model.deviation(whole)
    model.correct([(c, real(c)) for c in (frozenset(every[:4]), frozenset(every[2:9]))])
    assert abs(model.predict(whole) / real(whole) - 1) < 0.1
    assert model.deviation(whole) < before / 3


def test_one_that_saves_nothing_is_told_from_those_that_save_what_they_did_alone():
    prior = {Candidate(): -0.05 for _ in range(8)}
    model, every = AddedCosts(prior), list(prior)
    wrong = every[3]
    choices = [frozenset(every[i : i + 3]) for i in range(6)]
    model.correct([(c, 1 + sum(prior[k] for k in c - {wrong})) for c in choices])
    errors = {c: abs(model[frozenset({c})] - (0.0 if c is wrong else prior[c])) for c in every}
    assert errors[wrong] < abs(prior[wrong]) / 2
    assert max(errors[c] / abs(prior[c]) for c in every if c is not wrong) < 0.5


def test_exact_costs_stay_as_they_are():
    draw = np.random.default_rng(3)
    prior = alone(5, draw)
    model, whole = AddedCosts(prior, exact=True), frozenset(prior)
    model.correct([(whole, 0.9)])
    assert model.predict(whole) == pytest.approx(1 + sum(prior.values()))
    assert model.deviation(whole) == 0
