"""Fronts, ranks and hypervolumes against optuna's own and against counting on a grid."""

import itertools
import math

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxopt.automl.goals import Goals, Limit
from fxopt.automl.pareto import crowding, dominates, front, hypervolume, ranks
from fxopt.automl.promotion import promoted, share_of
from fxopt.automl.rungs import Rung

points = st.lists(st.tuples(*[st.integers(0, 6).map(float)] * 3), min_size=1, max_size=12)


@given(points)
@settings(max_examples=60, deadline=None)
def test_hypervolume_is_the_number_of_unit_cells_dominated(cloud):
    cells = itertools.product(range(7), repeat=3)
    counted = sum(any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in cloud) for cell in cells)
    assert hypervolume(cloud, (7.0, 7.0, 7.0)) == counted


@given(points)
@settings(max_examples=60, deadline=None)
def test_front_is_optunas(cloud):
    study = optuna.create_study(directions=["minimize"] * 3)
    for point in cloud:
        study.add_trial(optuna.create_trial(values=point))
    assert {cloud[i] for i in front(cloud)} == {tuple(trial.values) for trial in study.best_trials}
    assert len(front(cloud)) == len({cloud[i] for i in front(cloud)})


@given(points)
@settings(max_examples=60, deadline=None)
def test_nobody_is_ranked_before_one_who_dominates_it(cloud):
    found = ranks(cloud)
    for i, a in enumerate(cloud):
        for j, b in enumerate(cloud):
            assert not dominates(a, b) or found[i] < found[j]


def test_crowding_prefers_the_ends_and_the_lonely():
    distances = crowding([(0.0, 4.0), (1.0, 3.0), (1.1, 2.9), (4.0, 0.0)])
    assert distances[0] == distances[3] == math.inf
    assert distances[2] > distances[1]  # the gap to the right of the third is the larger one


def _figures(divergence, latency, macs=1.0):
    return {"divergence": divergence, "latency_ms": latency, "file_bytes": 1.0, "macs": macs}


GOALS = Goals((Limit("macs", 2.0),), ("metric_drop", "latency_ms", "file_bytes"))


def test_a_third_goes_on_and_the_first_always():
    rng = np.random.default_rng(0)
    seen, gone = [], 0
    for i in range(60):
        mine = _figures(float(rng.uniform(0.01, 1)), float(rng.uniform(1, 2)))
        went = promoted(mine, seen, GOALS, {}, 1 / 3)
        assert went or i > 0
        gone += went
        seen.append(mine)
    assert 12 <= gone <= 32  # about a third of each moment's ranks


@pytest.mark.parametrize("best", [True, False])
def test_who_breaks_a_limit_is_behind_all_who_keep_it(best):
    others = [_figures(0.5, 1.5) for _ in range(8)]
    mine = _figures(0.001 if best else 0.9, 1.0 if best else 1.9, macs=3.0)
    assert not promoted(mine, others, GOALS, {}, 1 / 3)
    assert promoted(_figures(0.001, 1.0), [*others, mine], GOALS, {}, 1 / 3)
    assert promoted(mine, others, GOALS, {}, 1.0), "who goes on for nothing"


def test_one_of_the_ends_of_a_front_goes_on_whoever_came_before():
    """A small front is all ends: the best in one objective is not behind who is best in another."""
    ends = [_figures(0.1, 2.0), _figures(0.2, 1.5), _figures(0.3, 1.2)]
    for mine in (_figures(0.05, 3.0), _figures(0.9, 0.5)):
        assert promoted(mine, ends, GOALS, {}, 1 / 3)


def test_as_many_go_on_as_the_next_rung_costs_more():
    """By epochs where both rungs train, else by seconds: no more than what was spent, all; and all while nobody knows."""
    rungs = (
        Rung("quality", ()),
        Rung("train-1", (), epochs=1),
        Rung("train-3", (), epochs=3),
        Rung("final", (), epochs=6),
    )
    assert share_of(rungs, 0, {"quality": [2.0, 2.0, 90.0], "train-1": [4.0, 4.0]}) == 0.5
    assert share_of(rungs, 0, {"quality": [1.0], "train-1": [30.0]}) == 1 / 3
    assert share_of(rungs, 0, {"quality": [3.0], "train-1": [2.0]}) == 1.0
    assert share_of(rungs, 0, {"quality": [3.0]}) is share_of(rungs, 0, {"quality": [], "train-1": [2.0]}) is None
    assert share_of(rungs, 1, {"train-1": [9.0], "train-3": [1.0]}) == 0.5  # an epoch, then two
    assert share_of(rungs, 2, {}) == pytest.approx(2 / 3)
    assert share_of((*rungs[:3], Rung("final", (), epochs=40)), 2, {}) == 1 / 3
