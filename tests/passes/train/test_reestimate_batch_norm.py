"""reestimate_batch_norm: its statistics against torch's own norms over everything at once, and what it declines."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Workload, capture
from fxopt.errors import DataError
from fxopt.ir.parser import parse_program
from fxopt.testing import small_workload
from fxopt.workload import find_workload


class Net(nn.Module):
    """Norms in a chain, on two branches of a sum, and behind a pool; far from zero in the first."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm1d(8)])
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.a.bias += 100.0  # squares of float32 lose the variance; its values keep their own rounding small
            for norm in self.norms:
                norm.weight.uniform_(0.5, 2)
                norm.bias.normal_()
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.2, 5)

    def forward(self, x):
        x = F.relu(self.norms[0](self.a(x)))
        x = F.relu(self.norms[1](self.b(x)) + self.norms[2](self.c(x)))
        return self.head(self.norms[3](x.mean((2, 3))))


class Images:
    """Images in batches of a size that may be chosen, the last smaller; labels are of no use."""

    metric = "none"

    def __init__(self, count: int = 50, step: int | None = None) -> None:
        self.images = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        self.step = step

    def batches(self, split, *, batch_size, seed=None):
        for some in self.images.split(self.step or batch_size):
            yield (some,), None


def workload(net=Net, data=None, **options) -> Workload:
    inputs = lambda: ((torch.zeros(2, 3, 8, 8),), {})  # noqa: E731
    return Workload(name="net", model=lambda: net().eval(), inputs=inputs, data=data or Images(), **options)


def run(passes, given, program=None):
    return Pipeline.parse(passes).run(program or given.capture(), workload=given, watchers=())


def wanted(net: Net, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """By torch alone, in float64: each norm in turn, in training mode with momentum 1, over all images as one batch."""
    net = net.double().eval()
    for norm in net.norms:
        norm.momentum = 1.0
        norm.train()  # it normalises by the batch while it looks, as it will by its new statistics up to N / (N - 1)
        net(images.double())
        norm.eval()
    return {k: v for k, v in net.state_dict().items() if "running" in k}


@pytest.mark.parametrize("step", [1, 7, 50])
def test_statistics_are_those_of_everything_in_one_batch_whatever_the_batches_are(step):
    given = workload(data=Images(step=step))
    after = run("reestimate_batch_norm", given).program.tensors()
    for name, want in wanted(Net(), given.data.images).items():
        torch.testing.assert_close(after[name].double(), want, rtol=2e-4, atol=2e-5, msg=name)
    before = given.capture().tensors()
    kept = [name for name in before if "running" not in name]
    assert all(torch.equal(before[name], after[name]) for name in kept)


def test_a_second_run_changes_nothing_that_matters_and_the_first_was_far_off():
    given = workload()
    first = run("reestimate_batch_norm", given)
    assert first.steps[0].changed
    once, twice = first.program.tensors(), run("reestimate_batch_norm", given, first.program).program.tensors()
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_a_batch_of_fixed_size_gets_the_images_too():
    given = workload(dynamic=None, data=Images(count=48))
    after = run("reestimate_batch_norm", given).program.tensors()
    for name, want in wanted(Net(), given.data.images).items():
        torch.testing.assert_close(after[name].double(), want, rtol=2e-4, atol=2e-5, msg=name)


def test_accuracy_of_pruned_digits_comes_back():
    digits = find_workload("digits")
    pruned = run("prune_channels(ratio=0.3, by='l1', scope='isomorphic')", digits).program
    again = run("reestimate_batch_norm", digits, pruned).program
    dense, lost, won = (digits.data.evaluate(p) for p in (digits.capture(), pruned, again))
    assert lost < dense - 0.1, "else there is nothing to win"
    assert won > lost + (dense - lost) / 2


# ---- what it leaves ------------------------------------------------------------------------------------------------


def reasons(outcome) -> list[str]:
    return [skip.reason for skip in outcome.steps[-1].skips]


def test_folded_norms_are_gone_and_it_says_when_to_run():
    outcome = run("fold_batch_norm, reestimate_batch_norm", workload(lambda: Chain()))
    assert not outcome.steps[-1].changed
    assert reasons(outcome) == [
        "there is no batch norm; fold_batch_norm and quantize leave none, so run reestimate_batch_norm before them"
    ]


class Chain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def test_without_a_norm_it_needs_no_data():
    program = capture(nn.Linear(4, 4), (torch.randn(2, 4),))
    assert reasons(Pipeline.parse("reestimate_batch_norm").run(program)) == [
        "there is no batch norm; fold_batch_norm and quantize leave none, so run reestimate_batch_norm before them"
    ]


TEXT = """
%x : f32[2,3,4,4]
%mean = param "bn.running_mean" : f32[3]
%var = param "bn.running_var" : f32[3]
{norms}
return %z
"""
NORM = "aten.batch_norm({}, None, None, %mean, %var, {}, 0.1, 1e-05, False)"


@pytest.mark.parametrize(
    ("norms", "reason"),
    [
        (f"%z = {NORM.format('%x', True)}", "training=True: it normalises with the statistics of each batch"),
        (
            f"%y = {NORM.format('%x', False)}; %z = {NORM.format('%y', False)}",
            "another batch norm reads the same statistics, and their inputs differ",
        ),
        (
            f"%v = aten.relu(%var); %z = {NORM.format('%x', False).replace('%var', '%v')}",
            "it has no statistics that are stored",
        ),
    ],
)
def test_norms_that_cannot_be_estimated_stay(norms, reason):
    program = parse_program(TEXT.format(norms=norms.replace("; ", "\n")))
    outcome = Pipeline.parse("reestimate_batch_norm").run(program, workload=small_workload(program), watchers=())
    assert not outcome.steps[0].changed
    assert set(reasons(outcome)) == {reason}


def test_without_data_it_says_what_is_missing():
    with pytest.raises(DataError, match="reestimate_batch_norm needs data: run the pipeline with workload"):
        Pipeline.parse("reestimate_batch_norm").run(workload().capture())
    bare = dataclasses.replace(workload(), data=None)
    with pytest.raises(DataError, match="reestimate_batch_norm needs data, and the workload 'net' has none"):
        run("reestimate_batch_norm", bare)
    with pytest.raises(DataError, match="hold no example"):
        run("reestimate_batch_norm", workload(data=Images(count=0)))


def test_infinity_is_shown_where_it_is_met():
    given = workload()
    program = given.capture()
    program.set_tensor("b.bias", torch.full((8,), torch.inf))
    with pytest.raises(DataError, match=r"met NaN or infinity in what this reads\n.*norms.1.*test_reestimate"):
        run("reestimate_batch_norm", given, program)
