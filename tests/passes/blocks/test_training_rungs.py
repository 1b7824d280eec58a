"""Candidates of a block, trained in two rungs: who is dropped behind the first, and that it is no other than those."""

import pytest
import torch
from cases.block_models import captured, seeded
from torch import nn

from fxopt.pass_manager.block_entry import parse_form
from fxopt.passes.blocks import training_rungs
from fxopt.passes.blocks.candidates import build, undominated
from fxopt.passes.blocks.find_blocks import find_blocks
from fxopt.passes.blocks.teacher import Teacher
from fxopt.passes.blocks.training_rungs import train_in_rungs
from fxopt.passes.train.finetune import finetune
from fxopt.testing import small_workload


@pytest.fixture
def made():
    """A convolution, its samples, and three forms in place of it: exact, near, and far."""
    program = captured(seeded(nn.Conv2d, 8, 8, 3, padding=1), 2, 8, 6, 6)
    (block,) = find_blocks(program).blocks
    samples = Teacher.of_data(program, small_workload(program), 64, "test").samples(block)
    forms = ("depthwise_pointwise(terms=9)", "depthwise_pointwise(terms=6)", "depthwise_pointwise(terms=1)")
    return samples, [build(block, parse_form(form, "test"), samples) for form in forms]


def _trained(made, costs, epochs, monkeypatch):
    """Who is left, and for how many epochs each was trained in turn."""
    samples, candidates = made
    cost = dict(zip(candidates, costs, strict=True))
    seen = []

    def counted(candidate, samples, how, device):
        seen.append((candidates.index(candidate), how.epochs))

    with monkeypatch.context() as patch:
        patch.setattr(training_rungs, "trained", counted)
        left = train_in_rungs(candidates, samples, finetune(epochs=epochs), "cpu", cost.__getitem__, None)
    return [candidates.index(c) for c in left], seen


def test_one_that_a_cheaper_one_clearly_beats_is_not_trained_to_the_end(made, monkeypatch):
    left, seen = _trained(made, (1.0, 2.0, 3.0), 10, monkeypatch)
    assert left == [0]
    assert seen[:3] == [(0, 2), (1, 2), (2, 2)]
    assert seen[3:] == [(i, 10) for i in left]


def test_one_that_costs_less_stays_however_far_it_is(made, monkeypatch):
    left, _ = _trained(made, (3.0, 2.0, 1.0), 10, monkeypatch)
    assert left == [0, 1, 2]


def test_few_epochs_are_one_rung(made, monkeypatch):
    left, seen = _trained(made, (1.0, 2.0, 3.0), 4, monkeypatch)
    assert left == [0, 1, 2]
    assert seen == [(0, 4), (1, 4), (2, 4)]


def test_one_that_fails_goes_out_with_its_reason(made):
    samples, candidates = made
    broken = candidates[1].program
    broken.set_tensors({name: torch.full_like(t, float("nan")) for name, t in broken.tensors().items()})
    out = {}
    left = train_in_rungs(
        candidates, samples, finetune(epochs=5), "cpu", lambda c: candidates.index(c), out.__setitem__
    )
    assert candidates[1] not in left
    assert "the loss is nan" in out[candidates[1]]


def test_of_equal_ones_that_with_fewest_ops_is_on_the_front(made):
    _, candidates = made
    for candidate in candidates:
        candidate.divergence = 0.5
    ops = [len(c.program.graph.nodes) for c in candidates]
    assert undominated(candidates, lambda _: 1.0) == [c for c, n in zip(candidates, ops, strict=True) if n == min(ops)]
    candidates[2].divergence = 0.6
    assert undominated(candidates, candidates.index) == candidates[:1]
    assert undominated(candidates, lambda c: -candidates.index(c)) == candidates[1:]
