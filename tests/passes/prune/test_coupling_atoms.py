"""The algebra of atoms: whatever is removed, all dims that were united, split or reshaped agree on what is left.

The oracle is numpy: a tensor of numbers goes through the same chain of reshapes and permutations, and through what is
left of them.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.atoms import Atoms, concatenated, product

SEEDS = st.integers(0, 1 << 30)


def masks(atoms, live, rows):
    return live[atoms.resolve(rows)].all(1)


def choose(atoms, random, arrays):
    """Atoms that live, at random; pinned ones do, and each array keeps an index."""
    live = random.random(len(atoms)) < random.choice([0.3, 0.6, 0.9])
    live[0] = True
    live |= atoms.pinned() > 0
    for rows in map(atoms.resolve, arrays):
        if not live[rows].all(1).any():
            live[rows[random.integers(len(rows))]] = True
    return live


def free(atoms, *arrays):
    """How many atoms of these can be removed."""
    found = np.unique(np.concatenate([atoms.resolve(rows).ravel() for rows in arrays]))
    return int(((found != 0) & (atoms.pinned()[found] == 0)).sum())


# ---- chains of reshapes and permutations ---------------------------------------------------------------------------


def factors(random, n):
    """``n`` as a random product, in random order."""
    found = []
    while n > 1:
        divisors = [d for d in range(2, n + 1) if n % d == 0]
        found.append(int(random.choice(divisors)))
        n //= found[-1]
    random.shuffle(found)
    return [*found, *[1] * int(random.integers(2))] or [1]


class Chain:
    """A tensor of numbers with its axes, and how each value came from the one before."""

    def __init__(self, atoms, shape):
        self.values = [
            (np.arange(math.prod(shape)).reshape(shape), [(atoms.fresh(n),) if n > 1 else (1,) for n in shape])
        ]
        self.steps = []
        self.atoms = atoms

    def reshape(self, shape):
        value, axes = self.values[-1]
        self.steps.append(None)
        self.values.append((value.reshape(shape), ax.reshape(self.atoms, axes, list(shape), 1)))

    def permute(self, order):
        value, axes = self.values[-1]
        self.steps.append(order)
        self.values.append((value.transpose(order), [axes[i] for i in order]))

    def arrays(self):
        return [rows for _, axes in self.values for axis in axes for rows in ax.arrays(axis)]

    def kept(self, live, number):
        value, axes = self.values[number]
        for dim, axis in enumerate(axes):
            value = value.compress(masks(self.atoms, live, ax.rows_of(axis)), dim)
        return value

    def check(self, live):
        """What is left of each value is what is left of the one before, in the new shape or order."""
        small = self.kept(live, 0)
        for number, order in enumerate(self.steps, 1):
            want = self.kept(live, number)
            small = small.reshape(want.shape) if order is None else small.transpose(order)
            assert np.array_equal(small, want), [v.shape for v, _ in self.values]


def grown(chain, random, length):
    for _ in range(length):
        value, _ = chain.values[-1]
        if random.random() < 0.4:
            chain.permute([int(i) for i in random.permutation(value.ndim)])
        else:
            chain.reshape(factors(random, value.size))
    return chain


def reshape_chains(examples):
    removed = 0

    @settings(max_examples=examples)
    @given(st.sampled_from([6, 12, 16, 24, 30, 36, 48, 60, 64, 72, 96]), st.integers(1, 6), SEEDS)
    def check(size, length, seed):
        nonlocal removed
        random = np.random.default_rng(seed)
        atoms = Atoms()
        chains = [grown(Chain(atoms, factors(random, size)), random, length) for _ in range(random.integers(1, 3))]
        if len(chains) == 2:  # they meet in one shape, element by element
            shape = factors(random, size)
            for chain in chains:
                chain.reshape(shape)
            for a, b in zip(chains[0].values[-1][1], chains[1].values[-1][1], strict=True):
                ax.unite(atoms, a, b, 1)
        for _ in range(3):
            live = choose(atoms, random, [rows for chain in chains for rows in chain.arrays()])
            for chain in chains:
                chain.check(live)
            left = [chain.kept(live, -1).shape for chain in chains]
            assert len(set(left)) == 1, "they no longer fit together"
            removed += size - math.prod(left[0])

    check()
    print(f"\nreshape chains: {examples} cases, {removed} cells removed")
    assert removed > examples


def test_reshape_chains():
    reshape_chains(400)


@pytest.mark.slow
def test_more_reshape_chains():
    reshape_chains(8000)


# ---- relations -----------------------------------------------------------------------------------------------------


def some_rows(atoms, random, n, known):
    """Monomials of ``n`` indices, made in one of several ways from new and known atoms."""
    kind = random.integers(6)
    divisors = [d for d in range(2, n) if n % d == 0]
    if kind == 0 and divisors:
        outer = int(random.choice(divisors))
        return product(some_rows(atoms, random, outer, known), some_rows(atoms, random, n // outer, known))
    if kind == 1 and n > 1:
        cut = int(random.integers(1, n))
        return concatenated([some_rows(atoms, random, cut, known), some_rows(atoms, random, n - cut, known)])
    if kind == 2 and known:
        rows = known[random.integers(len(known))]
        return rows[random.integers(len(rows), size=n)]
    if kind == 3 and known:
        rows = known[random.integers(len(known))]
        return rows[random.permutation(len(rows))[:n]] if len(rows) >= n else atoms.fresh(n)
    if kind == 4 and random.random() < 0.2:
        return np.zeros((n, 1), np.int64)
    return atoms.fresh(n)


def relations(examples):
    removed = 0

    @settings(max_examples=examples)
    @given(st.integers(1, 9), SEEDS)
    def check(count, seed):
        nonlocal removed
        random = np.random.default_rng(seed)
        atoms, known, united, splits = Atoms(), [], [], []
        for _ in range(count):
            n = int(random.choice([2, 3, 4, 6, 8, 12, 12, 24]))
            rows = some_rows(atoms, random, n, known)
            known.append(rows)
            divisors = [d for d in range(1, n + 1) if n % d == 0]
            kind = random.random()
            if kind < 0.45:
                other = some_rows(atoms, random, n, known)
                known.append(other)
                atoms.unite(rows, other, 1)
                united.append((rows, other))
            elif kind < 0.9:
                outer = int(random.choice(divisors))
                parts = atoms.split(rows, outer, n // outer, 1)
                known += parts
                splits.append((rows, *parts))
            else:
                atoms.pin(rows[:1], 1)
        for _ in range(3):
            live = choose(atoms, random, known)
            for a, b in united:
                assert np.array_equal(masks(atoms, live, a), masks(atoms, live, b))
            for rows, outer, inner in splits:
                whole = masks(atoms, live, outer)[:, None] & masks(atoms, live, inner)[None, :]
                assert np.array_equal(masks(atoms, live, rows), whole.ravel())
            removed += sum(int((~masks(atoms, live, rows)).sum()) for rows in known)
        assert atoms.pinned()[0] == 0, "what always lives is no atom"

    check()
    print(f"\nrelations: {examples} cases, {removed} indices removed")
    assert removed > examples


def test_relations():
    relations(600)


@pytest.mark.slow
def test_more_relations():
    relations(10000)


# ---- named cases: what must stay free ------------------------------------------------------------------------------


def test_common_refinement():
    atoms = Atoms()
    rows = atoms.fresh(24)
    first, second = atoms.split(rows, 4, 6, 1), atoms.split(rows, 12, 2, 1)
    assert free(atoms, rows) == free(atoms, *first, *second) == 4 + 3 + 2


def test_refinement_is_the_same_in_any_order():
    atoms = Atoms()
    rows = atoms.fresh(24)
    atoms.split(rows, 12, 2, 1)
    atoms.split(rows, 2, 12, 1)
    atoms.split(rows, 6, 4, 1)
    assert free(atoms, rows) == 2 + 3 + 2 + 2


def test_clash_ties_and_pins_nothing_needlessly():
    atoms = Atoms()
    rows = atoms.fresh(12)
    atoms.split(rows, 3, 4, 1)
    outer, inner = atoms.split(rows, 4, 3, 1)
    assert free(atoms, rows) <= 2, "no factor of 3 and 4 is a factor of 4 and 3"
    assert np.array_equal(atoms.resolve(product(outer, inner)).any(1), atoms.resolve(rows).any(1))


def test_one_index_each_meets_a_product():
    atoms = Atoms()
    rows, heads, width = atoms.fresh(12), atoms.fresh(3), atoms.fresh(4)
    atoms.unite(rows, product(heads, width), 1)
    assert free(atoms, rows) == 7


def test_products_of_one_form_meet_factor_by_factor():
    atoms = Atoms()
    a, b, c, d = (atoms.fresh(n) for n in (3, 4, 3, 4))
    atoms.unite(product(a, b), product(c, d), 1)
    assert free(atoms, a, b, c, d) == 7
    assert np.array_equal(atoms.resolve(a), atoms.resolve(c))


def test_what_always_lives_pins_what_it_meets():
    atoms = Atoms()
    rows, heads = atoms.fresh(6), atoms.fresh(3)
    atoms.unite(rows, np.zeros((6, 1), np.int64), 5)
    atoms.split(rows, 2, 3, 1)
    assert set(atoms.pinned()[atoms.resolve(rows)].ravel()) == {5}
    assert free(atoms, heads) == 3


def test_an_index_that_meets_itself_elsewhere():
    atoms = Atoms()
    rows = atoms.fresh(6)
    atoms.unite(rows, rows[[1, 2, 0, 3, 5, 4]], 1)
    assert free(atoms, rows) == 3


def test_a_product_that_holds_its_own_factor():
    """a[i] = h[i] and a[0]: it cannot be written as a substitution, and must stay right."""
    atoms = Atoms()
    rows, heads = atoms.fresh(4), atoms.fresh(4)
    atoms.unite(rows, product(heads, rows[:1]), 1)
    for seed in range(8):
        live = choose(atoms, np.random.default_rng(seed), [rows, heads])
        assert np.array_equal(masks(atoms, live, rows), masks(atoms, live, heads) & masks(atoms, live, rows[:1]))


def test_one_that_meets_several_at_once_is_joined_with_all():
    atoms = Atoms()
    rows, one = atoms.fresh(4), atoms.fresh(1)
    atoms.unite(rows, one[[0, 0, 0, 0]], 1)
    assert free(atoms, rows) == 1
    assert len(np.unique(atoms.resolve(rows))) == 1


DYNAMIC = ax.SYMBOLIC * 7
"""Stands for a dynamic size."""


def test_a_dynamic_size_is_merged_with_heads_and_split_off_again():
    atoms = Atoms()
    heads = atoms.fresh(6)
    (one,) = ax.reshape(atoms, [(DYNAMIC,), (heads,)], [6 * DYNAMIC], 1)
    assert ax.length(one) == 6 * DYNAMIC
    first, second = ax.reshape(atoms, [one], [DYNAMIC, 6], 1)
    assert first == (DYNAMIC,)
    assert np.array_equal(atoms.resolve(second[0]), atoms.resolve(heads))
    assert free(atoms, heads) == 6


def test_axes_that_hold_a_dynamic_size_in_other_places_pin_each_other():
    atoms = Atoms()
    first, second = atoms.fresh(6), atoms.fresh(6)
    ax.unite(atoms, (DYNAMIC, first), (second, DYNAMIC), 3)
    assert free(atoms, first) == free(atoms, second) == 0
    assert set(atoms.pinned()[atoms.resolve(second)].ravel()) == {3}


def test_large_dims():
    atoms = Atoms()
    rows, other = atoms.fresh(1 << 19), atoms.fresh(1 << 19)
    atoms.unite(rows, other, 1)
    outer, inner = atoms.split(rows, 1 << 9, 1 << 10, 1)
    atoms.unite(other, product(atoms.fresh(1 << 9), atoms.fresh(1 << 10)), 1)
    assert free(atoms, rows) == free(atoms, other) == (1 << 9) + (1 << 10)
    atoms.unite(inner, inner[::-1], 1)
    assert free(atoms, other) == (1 << 9) + (1 << 9)
    assert np.array_equal(atoms.resolve(inner), atoms.resolve(inner[::-1]))
    assert len(outer) == 1 << 9
