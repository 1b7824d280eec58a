"""Sorted channels: the outputs of the model itself stay, in float64, and norms fall along every sorted dim."""

import copy

import pytest
import torch
from cases.coupling_models import Attention, Depthwise, Glu, PixelShuffle, UNet, images, made
from cases.random_networks import NETWORKS
from cases.training import workload
from hypothesis import given, settings
from torch import nn

from fxopt import Pipeline, capture
from fxopt.ir.cost import cost
from fxopt.ir.parser import parse_program

pytestmark = pytest.mark.usefixtures("one_thread")


def outputs(module, x):
    with torch.no_grad():
        found = module(x)
    return found if isinstance(found, tuple) else (found,)


def sorted_program(model, x, options="", **given):
    """The model with its channels sorted; torch's own module in float64 is the oracle."""
    program = capture(model, (x,))
    outcome = Pipeline.parse(f"sort_channels({options})").run(program, **given)
    wide = copy.deepcopy(outcome.program.module).double()
    for want, got in zip(outputs(copy.deepcopy(model).double(), x.double()), outputs(wide, x.double()), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    return outcome


def norms(outcome, name):
    """Root of the sum of squares of each row of a weight."""
    return outcome.program.tensors()[name].detach().double().flatten(1).norm(dim=1)


def falls(values):
    return bool((values.diff() <= 1e-9).all())


def own(matrices: list[torch.Tensor]) -> torch.Tensor:
    """The norm of the first matrix: the weight that makes the channels."""
    return matrices[0].norm(dim=1)


class Chain(nn.Module):
    """What the first two layers make is sorted by ``own``; a residual stream, batch norm and a depthwise layer between."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.deep, self.mix = nn.Conv2d(10, 10, 3, padding=1, groups=10), nn.Conv2d(10, 10, 1)
        self.inner, self.head = nn.Conv2d(10, 7, 1), nn.Linear(7, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.mix(torch.relu(self.deep(x)))
        return self.head(torch.relu(self.inner(x)).mean((2, 3)))


def test_norms_fall_along_streams_and_layers():
    outcome = sorted_program(made(Chain), images()[0], f"by='{__file__}:own'")
    assert falls(norms(outcome, "stem.weight"))
    assert falls(norms(outcome, "inner.weight"))
    again = Pipeline.parse(f"sort_channels(by='{__file__}:own')").run(outcome.program).steps[0]
    assert not again.changed


@pytest.mark.parametrize(
    ("factory", "options", "x"),
    [
        (Glu, (True,), images()[0]),
        (Depthwise, (), images()[0]),
        (PixelShuffle, (), images()[0]),
        (UNet, (), images()[0]),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_cat_split_shuffle_and_groups(factory, options, x):
    outcome = sorted_program(made(factory, *options), x)
    assert outcome.steps[0].changed
    assert cost(outcome.program) == outcome.before


def test_whole_heads_move():
    """Behind the sort, each block of four rows of the query is a block of the original, with its rows in one order."""
    model = made(Attention, "expand")
    outcome = sorted_program(model, images(5, 10)[0])
    before, after = model.q.weight.detach().unflatten(0, (6, 4)), outcome.program.tensors()["q.weight"].detach()
    after = after.unflatten(0, (6, 4))
    rows = [{tuple(row.tolist()) for row in head} for head in before]
    order = [rows.index({tuple(row.tolist()) for row in head}) for head in after]
    assert sorted(order) == list(range(6))
    places = [[before[h].tolist().index(row.tolist()) for row in head] for h, head in zip(order, after, strict=True)]
    assert places == [places[0]] * 6, "the places in a head are permuted alike in all heads"


class TiedAndPicked(nn.Module):
    """Two layers tied by a sum, concatenated, and interleaved by an index: each channel is in the second value twice."""

    def __init__(self, picks):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(8, 3), nn.Linear(4, 3)
        self.register_buffer("picks", torch.tensor(picks))

    def forward(self, x):
        u, v = self.a(x), self.b(x)
        return self.d((u + v).relu()) + self.c(torch.cat([u, v], 1)[:, self.picks])


def test_a_value_that_holds_a_channel_twice():
    torch.manual_seed(0)
    outcome = sorted_program(TiedAndPicked([0, 5, 2, 7, 1, 4, 3, 6]), torch.randn(2, 4))
    (step,) = outcome.steps
    assert not step.changed
    assert [skip.reason for skip in step.skips] == [
        "4 channels of a.weight keep their order: this holds each of them twice, and what reads it picks by position"
    ]
    in_order = sorted_program(TiedAndPicked(list(range(8))), torch.randn(2, 4))
    assert in_order.steps[0].changed
    assert not in_order.steps[0].skips


class Sliced(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.left, self.right = nn.Linear(4, 8), nn.Linear(5, 2), nn.Linear(3, 2)

    def forward(self, x):
        x = self.up(x).relu()
        return self.left(x[:, :5]) + self.right(x[:, 5:])


def test_each_part_of_a_slice_is_sorted_for_itself():
    torch.manual_seed(0)
    outcome = sorted_program(Sliced(), torch.randn(2, 4), f"by='{__file__}:own'")
    rows = norms(outcome, "up.weight")
    assert falls(rows[:5])
    assert falls(rows[5:])
    assert not falls(rows)


def test_positions_that_are_numbered_stay():
    text = """
        %x : f32[2,4]
        %w = param "up.weight" : f32[6,4]
        %v = param "down.weight" : f32[3,6]
        %h = aten.linear(%x, %w)
        %n = aten.arange(6, dtype=f32)
        %g = aten.mul.Tensor(%h, %n)
        %y = aten.linear(%g, %v)
        return %y
    """
    (step,) = Pipeline.parse("sort_channels").run(parse_program(text)).steps
    assert not step.changed
    assert "it numbers their positions" in step.skips[0].reason


def test_criteria_that_need_data():
    """The proof runs the pass in float64, where the data are float32."""
    work = workload()
    step = Pipeline.parse("sort_channels(by='taylor')").run(work.capture(), workload=work).steps[0]
    assert step.changed
    assert step.findings.error < 1e-12


def sort_random(examples):
    changed = cases = 0

    @settings(max_examples=examples)
    @given(NETWORKS)
    def check(network):
        nonlocal changed, cases
        x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        changed += sorted_program(network.eval(), x).steps[0].changed
        cases += 1

    check()
    assert changed > cases // 2, "a test that moves nothing proves nothing"


def test_random_networks():
    sort_random(8)


@pytest.mark.zoo
def test_more_random_networks():
    sort_random(200)
