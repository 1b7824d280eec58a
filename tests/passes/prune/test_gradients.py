"""Gradients for criteria driven by data, against autograd on the user's own module."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Program, Workload, capture
from fxopt.errors import DataError, PassError
from fxopt.passes.prune.importance.gradients import mean_gradients, squared_gradients
from fxopt.testing import small_programs, small_workload
from fxopt.workload import find_workload

pytestmark = pytest.mark.usefixtures("one_thread")


class _Data:
    """Eight examples; batches of the size that is asked for."""

    metric = "none"

    def __init__(self, *shape: int, classes: int = 3) -> None:
        self.x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(5))
        self.y = torch.arange(8) % classes

    def batches(self, split, *, batch_size, seed=None):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed or 0))
        for some in order.split(batch_size):
            yield (self.x[some],), self.y[some]

    def loss(self, output, target):
        return F.cross_entropy(output, target)


def _with(program: Program, data) -> tuple[Program, Workload]:
    workload = Workload(name="mine", model=lambda: program.module, inputs=lambda: (program.args, {}), data=data)
    return program, workload


def _eager(model: nn.Module, pairs, loss) -> tuple[dict, dict]:
    """Mean gradient and mean squared gradient, example by example."""
    parameters = dict(model.named_parameters())
    mean = {name: torch.zeros_like(p) for name, p in parameters.items()}
    squared = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for args, target in pairs:
        for i in range(len(target)):
            found = torch.autograd.grad(
                loss(model(*(a[i : i + 1] for a in args)), target[i : i + 1]), parameters.values()
            )
            for name, gradient in zip(parameters, found, strict=True):
                mean[name] += gradient
                squared[name] += gradient**2
    return mean, squared


def _assert_close(got: dict, want: dict, count: int) -> None:
    assert want.keys() <= got.keys()
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor / count, rtol=2e-4, atol=1e-7)


def test_the_digits_have_the_gradients_of_the_eager_model():
    workload = find_workload("digits")
    program = workload.capture()
    one = workload.data.batches("train", batch_size=1, seed=3)
    _, squared = _eager(workload.model(), [next(one) for _ in range(6)], workload.data.loss)
    _assert_close(squared_gradients(program, workload, "me", samples=6, seed=3), squared, 6)
    ten = workload.data.batches("train", batch_size=10, seed=3)
    mean, _ = _eager(workload.model(), [next(ten) for _ in range(2)], workload.data.loss)
    found = mean_gradients(program, workload, "me", samples=20, seed=3)
    _assert_close(found, mean, 20)
    assert not any("running" in name for name in found)


@pytest.mark.parametrize("samples", [1, 5, 7])
def test_no_more_examples_are_seen_than_asked_for_and_each_counts_alike(samples):
    net, data = nn.Linear(4, 3), _Data(4)
    (args, target) = next(data.batches("train", batch_size=samples, seed=2))
    mean, squared = _eager(net, [(args, target)], data.loss)
    asked = *_with(capture(net, (data.x,)), data), "me"
    _assert_close(mean_gradients(*asked, samples=samples, seed=2), mean, samples)
    _assert_close(squared_gradients(*asked, samples=samples, seed=2), squared, samples)


def test_a_last_batch_of_fewer_examples_counts_by_them():
    class Twenty(_Data):
        def __init__(self) -> None:
            self.x = torch.randn(20, 4, generator=torch.Generator().manual_seed(5))
            self.y = torch.arange(20) % 3

        def batches(self, split, *, batch_size, seed=None):
            yield from zip(((x,) for x in self.x.split(batch_size)), self.y.split(batch_size), strict=True)

    net, data = nn.Linear(4, 3), Twenty()
    mean, _ = _eager(net, [((data.x,), data.y)], data.loss)
    _assert_close(mean_gradients(*_with(capture(net, (data.x,)), data), "me", samples=64), mean, 20)


def test_the_program_is_untouched_and_a_second_run_gives_the_same():
    for program in small_programs().values():
        if program.kwargs:
            continue  # batches are positional
        workload = small_workload(program)
        tensors = program.tensors()
        before = program.fingerprint(), {n: (id(t), t.requires_grad, t._version) for n, t in tensors.items()}
        chance = torch.get_rng_state()
        for ask in (mean_gradients, squared_gradients):
            first, second = (ask(program, workload, "me", seed=1) for _ in range(2))
            assert all(torch.equal(first[n], second[n]) for n in first)
            assert {n for n, t in tensors.items() if isinstance(t, nn.Parameter)} <= first.keys()
        assert before == (
            program.fingerprint(),
            {n: (id(t), t.requires_grad, t._version) for n, t in tensors.items()},
        )
        assert all(t.grad is None for t in tensors.values())
        assert torch.equal(chance, torch.get_rng_state())


def test_a_fixed_batch_is_filled_up_and_gives_the_gradients_of_single_examples():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    data = _Data(2, 4, 4)
    fixed = *_with(capture(net, (data.x[:5],), dynamic=None), data), "me"
    mean, squared = _eager(net, [((data.x,), data.y)], data.loss)
    _assert_close(mean_gradients(*fixed), mean, 8)
    _assert_close(squared_gradients(*fixed), squared, 8)


def test_dropout_and_batch_norm_are_evaluated_in_a_graph_exported_in_training():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    data = _Data(4)
    exported = torch.export.export(net.train(), (data.x,)).module()
    program = Program(exported, (data.x,))
    mean, _ = _eager(net.eval(), [((data.x,), data.y)], data.loss)
    for node in exported.graph.find_nodes(op="call_module"):  # torch's own guards, which capture drops
        exported.graph.erase_node(node)
    exported.recompile()
    _assert_close(mean_gradients(*_with(program, data), "me"), mean, 8)
    assert exported.get_parameter("0.weight").grad is None


def test_tied_weights_have_one_gradient_under_each_name():
    program = capture(nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False)), (_Data(3).x,))
    program.module.get_submodule("2").weight = program.module.get_submodule("0").weight
    found = mean_gradients(*_with(program, _Data(3)), "me")
    weight = program.tensors()["0.weight"].detach().clone().requires_grad_()
    data = _Data(3)
    F.cross_entropy(F.linear(F.linear(data.x, weight).relu(), weight), data.y).backward()
    assert found["0.weight"] is found["2.weight"]
    torch.testing.assert_close(found["0.weight"], weight.grad)


class _Unread(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x), self.other(x)


def test_a_weight_without_influence_has_zeros():
    class First(_Data):
        def loss(self, output, target):
            return F.cross_entropy(output[0], target)

    found = mean_gradients(*_with(capture(_Unread(), (torch.randn(2, 4),)), First(4)), "me")
    assert found["fc.weight"].any()
    assert found["other.weight"].shape == (3, 4)
    assert not found["other.weight"].any()


class _Overwrites(nn.Module):
    """What relu and exp keep for the backward pass is written over through a view."""

    def __init__(self, functional: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.functional = nn.Linear(4, 3), functional

    def forward(self, x):
        y = self.fc(x).relu().exp()
        if self.functional:
            return torch.cat([y[:, :2] * 2, y[:, 2:]], 1)
        y[:, :2].mul_(2.0)
        return y


def test_values_that_are_written_over_in_place_do_not_stop_autograd():
    data = _Data(4)
    with pytest.raises(RuntimeError, match="inplace"):
        data.loss(_Overwrites()(data.x), data.y).backward()
    asked = *_with(capture(_Overwrites(), (data.x,)), data), "me"
    mean, squared = _eager(_Overwrites(functional=True), [((data.x,), data.y)], data.loss)
    _assert_close(mean_gradients(*asked), mean, 8)
    _assert_close(squared_gradients(*asked), squared, 8)


# ---- what is refused -----------------------------------------------------------------------------------------------


def _linear() -> Program:
    return capture(nn.Linear(4, 3), (torch.randn(2, 4),))


def test_without_a_workload_data_loss_or_batch_the_error_names_who_asked():
    with pytest.raises(DataError, match="zero_channels needs training data"):
        mean_gradients(_linear(), None, "zero_channels")
    with pytest.raises(DataError, match="zero_channels needs data"):
        mean_gradients(*_with(_linear(), None), "zero_channels")

    class NoLoss:
        metric = "none"
        batches = _Data(4).batches

    with pytest.raises(DataError, match=r"zero_channels.*loss\(output, target\)"):
        mean_gradients(*_with(_linear(), NoLoss()), "zero_channels")

    class Empty(_Data):
        def batches(self, split, *, batch_size, seed=None):
            return iter(())

    with pytest.raises(DataError, match=r"zero_channels.*no training batch"):
        mean_gradients(*_with(_linear(), Empty(4)), "zero_channels")


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda output, target: output.sum() * float("nan" if target[0] == 1 else 1), "batch [2-9].*the loss is nan"),
        (lambda output, target: output.sum().detach(), "batch 1 .*not detached"),
        (lambda output, target: output, "batch 1 .*one number"),
        (lambda output, target: output @ target, "batch 1 .*its loss failed: RuntimeError"),
        (lambda output, target: (output * 0).sum().sqrt(), "batch 1 .*gradient by the weight '.*' is not finite"),
    ],
)
def test_a_loss_that_is_of_no_use_is_named_with_its_batch(loss, words):
    class Mine(_Data):
        pass

    Mine.loss = staticmethod(loss)
    with pytest.raises(DataError, match=words):
        squared_gradients(*_with(_linear(), Mine(4)), "me", seed=2)


def test_data_that_do_not_fit_are_refused_with_what_is_expected():
    with pytest.raises(DataError, match=r"batch 1 of 'mine' does not fit.*f32\[batch,4\].*f32\[8,5\]"):
        mean_gradients(*_with(_linear(), _Data(5)), "me")


class _Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        with torch.no_grad():
            self.scale.clamp_(0.5)
        return self.fc(x) * self.scale


def test_a_graph_that_writes_into_a_weight_is_refused_with_the_users_line():
    program, workload = _with(capture(_Writes(), (torch.randn(2, 4),)), _Data(4))
    with pytest.raises(PassError, match=r"writes into the weight 'scale'(.|\n)*aten\.clamp_.*test_gradients\.py:\d+"):
        mean_gradients(program, workload, "me")
