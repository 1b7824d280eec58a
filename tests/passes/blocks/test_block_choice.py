"""The choice of forms against all choices there are."""

import itertools

import numpy as np
import pytest

from fxopt.passes.blocks.block_choice import Term, choose


def every(groups, crossed):
    """All choices of one option of a group at most, of crossed groups from one."""
    for picks in itertools.product(*([None, *range(len(group))] for group in groups)):
        chosen = {(g, k) for g, k in enumerate(picks) if k is not None}
        if not any({a, b} <= {g for g, _ in chosen} for a, b in crossed):
            yield frozenset(chosen)


def totals(groups, pairs, chosen):
    terms = [groups[g][k] for g, k in chosen] + [t for both, t in pairs.items() if chosen.issuperset(both)]
    return sum(t.loss for t in terms), sum(t.cost for t in terms)


@pytest.mark.parametrize("seed", range(8))
def test_it_finds_the_best_of_all_choices(seed):
    random = np.random.default_rng(seed)
    groups = [[Term(*t) for t in random.random((n, 2)) * [1, -0.3]] for n in (3, 2, 1, 3)]
    crossed = [(0, 1)]
    pairs = {((1, 0), (2, 0)): Term(0.2, -0.1), ((2, 0), (3, 1)): Term(-0.3, 0.05)}
    choices = {chosen: totals(groups, pairs, chosen) for chosen in every(groups, crossed)}
    for limit in (-0.2, -0.4):
        fitting = {c: loss for c, (loss, cost) in choices.items() if cost <= limit}
        found = choose(groups, crossed, pairs, limit)
        if not fitting:
            assert found is None
            continue
        assert choices[found][0] == pytest.approx(min(fitting.values()))
        second = choose(groups, crossed, pairs, limit, [found])
        rest = [loss for c, loss in fitting.items() if c != found]
        assert (second is None) == (not rest)
        assert second is None or choices[second][0] == pytest.approx(min(rest))


def test_without_anything_to_choose_nothing_is_chosen_where_that_fits():
    assert choose([], [], {}, 0.0) == frozenset()
    assert choose([], [], {}, -0.1) is None
    assert choose([], [], {}, 0.0, [frozenset()]) is None
