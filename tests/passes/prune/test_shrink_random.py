"""Random networks with random zeros: shrink keeps every output (its verification says so), and comes to an end.

Zeros come from the coupling (random atoms of random groups) and from nowhere in particular (rows and columns of weights).
"""

import numpy as np
import pytest
import torch
from cases.random_networks import NETWORKS, Random
from hypothesis import given, settings
from hypothesis import strategies as st

from fxopt import Pipeline, capture
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.groups import find_groups
from fxopt.passes.prune.shrink import shrink
from fxopt.passes.prune.zeroing import zero

pytestmark = pytest.mark.usefixtures("one_thread")


def zero_atoms(program, random):
    sweep = couple(program)
    dead = np.zeros(len(sweep.atoms), np.bool_)
    for group in find_groups(sweep):
        if random.random() < 0.7:
            dead[group.atoms[random.random(len(group.atoms)) < random.choice([0.3, 0.6, 1.0])]] = True
    zero(program, sweep, dead)


def zero_anything(program, random):
    changed = {}
    for name, tensor in program.tensors().items():
        if not tensor.is_floating_point() or "running" in name or random.random() < 0.5:
            continue
        dim = int(random.integers(tensor.dim()))
        mask = torch.from_numpy(random.random(tensor.shape[dim]) < 0.6).reshape(
            [-1 if i == dim else 1 for i in range(tensor.dim())]
        )
        changed[name] = tensor.detach() * mask
    program.set_tensors(changed)


def is_settled(program):
    """A second run finds nothing that the first one left."""
    assert not Pipeline.of(shrink()).run(program).steps[0].changed, program.text()


def shrink_random(examples, zeroings=3):
    cases = removed = changed = 0

    @settings(max_examples=examples)
    @given(NETWORKS, st.integers(0, 1 << 20))
    def check(network, seed):
        nonlocal cases, removed, changed
        x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        program = capture(network.eval(), (x,))
        random = np.random.default_rng(seed)
        for number in range(zeroings):
            work = program.copy()
            if number != 1:
                zero_atoms(work, random)
            if number != 0:
                zero_anything(work, random)
            outcome = Pipeline.of(shrink()).run(work)
            is_settled(outcome.program)
            cases += 1
            changed += outcome.steps[0].changed
            removed += sum(t.numel() for t in work.tensors().values())
            removed -= sum(t.numel() for t in outcome.program.tensors().values())

    check()
    print(f"\nshrink: {cases} cases, {changed} shrank, {removed} weights removed")
    assert changed > cases // 2, "a test that removes nothing proves nothing"


def test_random_networks():
    shrink_random(12)


@pytest.mark.parametrize(
    "networks", [pytest.param(40, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.zoo)]
)
def test_more_random_networks(networks):
    shrink_random(networks, zeroings=10)


def test_second_look_behind_an_rms_norm():
    """A value that has got a factor behind it has the claim of that product, in every further look."""
    steps = [("transposed", 0), ("rms_norm", 0), ("center", 0), ("attention", 9), ("einsum", 3)]
    program = capture(Random(steps, 15, 0).eval(), (torch.randn(2, 3, 4, 4),))
    zero_names = [
        "stem.weight",
        "stem.bias",
        "layers.0.bias",
        "layers.4.0",
        *(f"layers.3.{i}.weight" for i in range(4)),
    ]
    tensors = program.tensors()
    changed = {name: tensors[name] * 0 for name in zero_names}
    keep = torch.tensor([0, 1, 1, 0, 1, 1, 1, 1, 1])  # ragged over heads: the first look leaves work for the second
    program.set_tensors({**changed, "layers.3.1.bias": tensors["layers.3.1.bias"].detach() * keep})
    outcome = Pipeline.of(shrink()).run(program)
    assert next(n for n in outcome.program.graph.nodes if n.name == "rms_norm").meta["val"].shape[-1] == 1


@pytest.mark.parametrize("elsewhere", [True, False])
def test_second_look_where_a_place_is_zero_for_the_heads_that_stay(elsewhere):
    """Place 0 of the query is zero in heads 0 to 5 alone, and heads 6 and 7 are not read: without them it goes too."""

    class Product(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key, self.read = torch.nn.Linear(5, 32), torch.nn.Linear(5, 28), torch.nn.Linear(8, 3)

        def forward(self, x):
            query, key = self.query(x).view(-1, 8, 4), self.key(x).view(-1, 7, 4)
            return self.read((query @ key.transpose(1, 2)).transpose(1, 2))

    model = Product()
    with torch.no_grad():
        for rows in (tensor.view(8, 4, -1) for tensor in (model.query.weight, model.query.bias)):
            rows[:6, 0] = 0
            if elsewhere:
                rows[:, 1] = 0
        model.read.weight[:, 6:] = 0
    outcome = Pipeline.of(shrink()).run(capture(model, (torch.randn(2, 5),)))
    places = 2 if elsewhere else 3
    sizes = {name: len(tensor) for name, tensor in outcome.program.tensors().items()}
    assert (sizes["query.weight"], sizes["key.weight"]) == (6 * places, 7 * places)
    is_settled(outcome.program)
