"""Sparsity of single weights and mask files: against torch's own pruning, by counting, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from fxopt import Pipeline, Workload, capture
from fxopt.errors import DataError, OptionError, PassError, UnknownNameError
from fxopt.passes.common.lowest import lowest
from fxopt.passes.common.masks import cubic_sparsity, keep_masks, masks
from fxopt.passes.prune.apply_mask import apply_mask
from fxopt.passes.prune.sparsify import sparsify

pytestmark = pytest.mark.usefixtures("one_thread")


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(32, 5)
    ).eval()


X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
WEIGHTS = ("0.weight", "3.weight", "5.weight")


def _run(step, module: nn.Module, *args: torch.Tensor, **context):
    return Pipeline.of(step).run(capture(module, args), watchers=(), **context)


def _zeros(outcome) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() == 0 for name, tensor in outcome.program.tensors().items()}


def _reasons(outcome) -> list[str]:
    return [str(skip) for step in outcome.steps for skip in step.skips]


# ---- single weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.97])
def test_magnitude_zeroes_what_torch_zeroes_by_layer_and_over_all(ratio):
    for scope in ("layer", "global"):
        peer = _net()
        targets = [(peer.get_submodule(name[0]), "weight") for name in WEIGHTS]
        if scope == "global":
            prune.global_unstructured(targets, pruning_method=prune.L1Unstructured, amount=ratio)
        else:
            for module, name in targets:
                prune.l1_unstructured(module, name, amount=ratio)
        outcome = _run(sparsify(ratio=ratio, scope=scope), _net(), X)
        for name in WEIGHTS:
            assert torch.equal(~_zeros(outcome)[name], peer.get_buffer(f"{name}_mask").bool()), (scope, name)
        torch.testing.assert_close(outcome.program(X), peer(X))
        assert outcome.steps[0].changed == (ratio > 0)


@given(
    st.lists(st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0]), min_size=2, max_size=24),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["magnitude", "random"]),
    st.sampled_from(["global", "layer"]),
)
@settings(max_examples=25)
def test_exactly_the_share_is_zero_with_ties_and_with_zeros_that_were_there(values, ratio, by, scope):
    net = nn.Linear(len(values) // 2 * 2, 1)
    net.weight.data = torch.tensor([values[: len(values) // 2 * 2]])
    count, before = net.weight.numel(), int((net.weight == 0).sum())
    outcome = _run(sparsify(ratio=ratio, by=by, scope=scope), net, torch.randn(2, count))
    assert int(_zeros(outcome)["weight"].sum()) == max(round(ratio * count), before)
    assert bool(_zeros(outcome)["weight"][net.weight == 0].all())


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
def test_the_lowest_are_those_that_a_stable_sort_puts_first(values, data):
    count = data.draw(st.integers(0, len(values)))
    want = sorted(range(len(values)), key=lambda i: (values[i], i))[:count]
    assert lowest(torch.tensor(values, dtype=torch.float32), count).nonzero().flatten().tolist() == sorted(want)


class _Data:
    metric = "none"

    def batches(self, split, *, batch_size, seed=None):
        generator = torch.Generator().manual_seed(seed or 0)
        for _ in range(8 // batch_size):
            yield (torch.randn(batch_size, 4, 6, 6, generator=generator),), torch.zeros(batch_size, dtype=torch.int64)

    def loss(self, output, target):
        return F.cross_entropy(output, target)


def test_movement_zeroes_what_a_step_of_training_would_move_most_towards_zero():
    net, data = _net(), _Data()
    workload = Workload(name="mine", model=_net, inputs=lambda: ((X,), {}), data=data)
    outcome = _run(sparsify(by="movement", ratio=0.4), net, X, workload=workload)
    images = torch.cat([args[0] for args, _ in data.batches("train", batch_size=1, seed=0)])
    weights = [net.get_parameter(name) for name in WEIGHTS]
    slopes = torch.autograd.grad(data.loss(net(images), torch.zeros(8, dtype=torch.int64)), weights)
    moved = torch.cat([(w * g).flatten() for w, g in zip(weights, slopes, strict=True)])
    zero = torch.cat([_zeros(outcome)[name].flatten() for name in WEIGHTS])
    assert int(zero.sum()) == round(0.4 * len(zero))
    assert moved[zero].min() >= moved[~zero].max() - 1e-6
    with pytest.raises(DataError, match=r"by='movement'.*needs training data"):
        _run(sparsify(by="movement"), _net(), X)


def test_random_hangs_on_the_seed_alone():
    first, again, other = (_zeros(_run(sparsify(by="random", seed=seed), _net(), X)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_random_is_independent_of_weights_initialised_from_the_same_seed():
    torch.manual_seed(0)
    net = nn.Conv2d(64, 64, 3, bias=False)  # uniform: lowest first of the same stream would be the negative ones
    zero = _zeros(_run(sparsify(by="random"), net, torch.randn(2, 64, 4, 4)))["weight"]
    assert float((net.weight[zero] < 0).float().mean()) == pytest.approx(0.5, abs=0.02)


# ---- N:M -----------------------------------------------------------------------------------------------------------


def _grouped(weight: torch.Tensor, size: int) -> torch.Tensor:
    """Groups [g, size] as NVIDIA's library makes them: kernel positions and outputs first, neighbouring inputs last."""
    if weight.dim() == 4:
        weight = weight.permute(2, 3, 0, 1).reshape(-1, weight.shape[1])
    return weight.reshape(-1, size)


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "1:2", "3:4"])
def test_in_every_group_of_neighbouring_inputs_the_largest_stay(pattern):
    kept, size = map(int, pattern.split(":"))
    net = _net()
    outcome = _run(sparsify(pattern=pattern), net, X)
    assert not _reasons(outcome)
    for name in WEIGHTS:
        before = _grouped(net.get_parameter(name).detach(), size).abs()
        after = _grouped(outcome.program.tensors()[name].detach(), size).abs()
        assert bool(((after != 0).sum(1) == kept).all())
        assert torch.equal(after.sort(1).values[:, size - kept :], before.sort(1).values[:, size - kept :])


class _Arranged(nn.Module):
    """Weights that are transposed, on either side, cut out of a larger one, and in groups that are transposed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.right, self.left = nn.Parameter(torch.randn(8, 12)), nn.Parameter(torch.randn(6, 8))
        self.both = nn.Parameter(torch.randn(24, 12))
        self.up = nn.ConvTranspose2d(8, 4, 2, groups=2)

    def forward(self, x):
        y = x @ self.right
        y = y @ self.both.chunk(2)[1].t()
        z = self.left @ y[:, :8, :8]
        return self.up(F.pad(z, (0, 0, 0, 2)).unsqueeze(-1)), z


def test_the_dim_that_is_summed_over_is_found_through_transposes_and_slices():
    outcome = _run(sparsify(pattern="2:4"), _Arranged().eval(), torch.randn(2, 9, 8))
    zero = _zeros(outcome)
    for name, groups in {
        "right": zero["right"].t().reshape(-1, 4),
        "left": zero["left"].reshape(-1, 4),
        "both": zero["both"][12:].reshape(-1, 4),
        "up.weight": zero["up.weight"].permute(1, 2, 3, 0).reshape(-1, 4),
    }.items():
        assert bool((groups.sum(1) == 2).all()), name
    assert not zero["both"][:12].any(), "nobody multiplies with these"
    assert not _reasons(outcome)


def test_a_layer_whose_inputs_make_no_groups_is_skipped_with_reason_and_line():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 8, 2, groups=4)).eval()
    outcome = _run(sparsify(pattern="2:4"), net, torch.randn(2, 3, 6, 6))
    assert not outcome.steps[0].changed
    for reason, inputs in zip(_reasons(outcome), (3, 1, 2), strict=True):
        assert f"the {inputs} inputs that it sums over are no multiple of 4" in reason


class _Both(nn.Module):
    """One weight in two linears, across and along."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return F.linear(F.linear(x, self.weight), self.weight.t())


def test_layers_that_share_a_weight_but_not_the_dim_are_skipped_in_groups_alone():
    outcome = _run(sparsify(pattern="2:4"), _Both(), torch.randn(2, 8))
    assert not _zeros(outcome)["weight"].any()
    assert "sum over different dims" in _reasons(outcome)[0]
    assert int(_zeros(_run(sparsify(), _Both(), torch.randn(2, 8)))["weight"].sum()) == 32


# ---- which weights -------------------------------------------------------------------------------------------------


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head, self.body = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False), nn.Linear(8, 8)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.body(self.embedding(tokens)).relu())


def test_a_tied_weight_is_counted_and_zeroed_once_and_stays_tied():
    tokens = torch.arange(10).reshape(2, 5)
    outcome = _run(sparsify(ratio=0.25), _Tied(), tokens)
    zero = _zeros(outcome)
    assert sum(int(zero[name].sum()) for name in zero if "weight" in name) == round(0.25 * 144)
    program = capture(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)), (torch.randn(2, 3),))
    program.module.get_submodule("2").weight = program.module.get_submodule("0").weight  # under two names
    after = Pipeline.of(sparsify(ratio=1 / 3)).run(program, watchers=()).program.tensors()
    assert after["0.weight"] is after["2.weight"]
    assert int((after["0.weight"] == 0).sum()) == 3


def test_biases_norms_and_what_keep_and_only_leave_out_are_never_touched():
    zero = _zeros(_run(sparsify(ratio=0.9), _net(), X))
    assert {name for name, mask in zero.items() if mask.any()} <= {*WEIGHTS, "1.running_mean", "1.bias"}
    for step, want in (
        (sparsify(only=("3", "5*")), {"3.weight", "5.weight"}),
        (sparsify(keep=("0.weight", "[3]")), {"5.weight"}),
        (sparsify(only=("0", "5"), keep=("5",)), {"0.weight"}),
    ):
        outcome = _run(step, _net(), X)
        zero = _zeros(outcome)
        assert {name for name in WEIGHTS if zero[name].any()} == want
        assert sum(int(zero[name].sum()) for name in want) == round(
            0.5 * sum(zero[name].numel() for name in want)
        )  # of those that are meant
        assert len(_reasons(outcome)) == 3 - len(want)


class _Computed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lstm = nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True)
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x):
        y = F.linear(self.lstm(x)[0], self.fc.weight * self.scale)
        return y @ y.mT


def test_a_weight_that_is_computed_or_recurrent_is_left_alone_with_the_reason():
    outcome = _run(sparsify(), _Computed(), torch.randn(2, 3, 4))
    lstm, computed = _reasons(outcome)
    assert "recurrent" in lstm
    assert "computed by aten.mul.Tensor, not stored: run fold_constants first" in computed
    assert "test_sparsify.py:" in computed
    assert not outcome.steps[0].changed


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["4:2", "4:4", "0:4", "2", "2:4:8", "a:b", " 2:4", "-1:4", "²:4"])
def test_a_pattern_that_is_none_is_refused(pattern):
    with pytest.raises(OptionError, match=r"'2:4' for two weights kept of every four; got"):
        sparsify(pattern=pattern)


def test_options_that_contradict_or_leave_their_range_are_refused():
    for options in ({"ratio": 1.0}, {"ratio": -0.1}, {"ratio": float("nan")}, {"by": "l2"}, {"seed": -1}):
        with pytest.raises(OptionError, match=next(iter(options))):
            sparsify(**options)
    with pytest.raises(OptionError, match="zeroes 3 of every 4 weights; leave ratio and scope out"):
        sparsify(pattern="1:4", ratio=0.6)


def test_a_name_that_no_weight_has_is_refused_with_the_nearest():
    for step in (sparsify(keep=("5.weigth",)), sparsify(only=("0", "5.weigth"))):
        with pytest.raises(UnknownNameError, match=r"'5\.weigth'; did you mean .*'5\.weight'"):
            _run(step, _net(), X)
    with pytest.raises(UnknownNameError, match=r"'1\.weight'; did you mean"):
        _run(sparsify(keep=("1.weight",)), _net(), X)  # a batch norm's


def test_a_weight_that_is_not_finite_is_named_with_the_users_line():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.fc.weight.data[1, 2] = float("nan")

        def forward(self, x):
            return self.fc(x)

    with pytest.raises(PassError, match=r"'fc\.weight' holds NaN or infinity\n.*aten\.linear.*test_sparsify\.py:\d+"):
        _run(sparsify(), Net(), torch.randn(2, 4))


def test_a_quantized_weight_is_refused():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    program = capture(net, (torch.randn(2, 4),))
    workload = Workload(name="mine", model=lambda: net, inputs=lambda: ((torch.randn(2, 4),), {}), data=_Rows())
    half = Pipeline.parse("quantize(keep_float=('2',))").run(program, workload=workload, watchers=()).program
    with pytest.raises(PassError, match=r"'0\.weight_int8' is quantized already; sparsify before quantize"):
        Pipeline.of(sparsify()).run(half, watchers=())
    some = Pipeline.of(sparsify(only=("2",))).run(half, watchers=()).program
    assert int((some.tensors()["2.weight"] == 0).sum()) == 8
    assert "0.weight_int8" not in masks(some)


class _Rows(_Data):
    def batches(self, split, *, batch_size, seed=None):
        yield (torch.randn(batch_size, 4),), torch.zeros(batch_size, dtype=torch.int64)


# ---- masks that last -----------------------------------------------------------------------------------------------


def test_masks_outlive_training_with_momentum_and_the_rest_is_trained():
    program = _run(sparsify(ratio=0.6), _net(), X).program
    before = {name: tensor.detach().clone() for name, tensor in program.tensors().items()}
    found, keep = masks(program), keep_masks(program)
    assert set(found) == set(WEIGHTS)
    parameters = list(program.module.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)
    for args, target in _Data().batches("train", batch_size=4):
        optimizer.zero_grad()
        _Data().loss(program.module(*args), target).backward()
        optimizer.step()
        assert any((program.tensors()[name][~mask] != 0).any() for name, mask in found.items()), "training undoes it"
        keep()
    for name, mask in found.items():
        after = program.tensors()[name].detach()
        assert torch.equal(after != 0, mask)
        assert not torch.equal(after, before[name])
    assert all(a is b for a, b in zip(parameters, program.module.parameters(), strict=True))


def test_the_cubic_schedule_is_that_of_the_paper():
    assert [cubic_sparsity(step, 2, 10, 0.0, 0.8) for step in (0, 2, 6, 10, 99)] == pytest.approx(
        [0.0, 0.0, 0.8 * (1 - 0.5**3), 0.8, 0.8]
    )
    assert cubic_sparsity(4, 0, 8, 0.2, 0.6) == pytest.approx(0.6 - 0.4 / 8)
    with pytest.raises(ValueError, match="begins before it ends"):
        cubic_sparsity(0, 5, 5, 0.0, 0.5)


# ---- mask files ----------------------------------------------------------------------------------------------------


def test_a_mask_file_zeroes_rows_and_elements_under_either_format(tmp_path):
    net = _net()
    rows = torch.tensor([1, 0, 1, 1, 1, 0, 1, 1])
    single = torch.rand(5, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    found = {"0.weight": rows.reshape(8, 1, 1, 1).float(), "0.bias": rows.to(torch.uint8), "5.weight": single}
    save_file(found, tmp_path / "mask.safetensors")
    np.savez(tmp_path / "mask.npz", **{name: mask.numpy() for name, mask in found.items()})
    with torch.no_grad():
        net[0].weight *= rows.reshape(8, 1, 1, 1)
        net[0].bias *= rows
        net[5].weight *= single
    for name in ("mask.safetensors", "mask.npz"):
        outcome = _run(apply_mask(path=str(tmp_path / name)), _net(), X)
        torch.testing.assert_close(outcome.program(X), net(X), rtol=0, atol=0)
        assert outcome.steps[0].changed


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"0.weigth": torch.ones(8, 1, 1, 1)}, r"'0\.weigth'; did you mean '0\.weight'"),
        ({"0.weight": torch.ones(8)}, r"'0\.weight' has the shape \[8\], the weight \[8, 4, 3, 3\]"),
        ({"0.weight": torch.ones(4, 1, 1, 1)}, r"has the shape \[4, 1, 1, 1\]"),
        ({"0.bias": torch.full((8,), 0.5)}, r"'0\.bias' holds values other than 0"),
        ({"0.bias": torch.full((8,), float("nan"))}, r"'0\.bias' holds values other than 0"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(mask, words, tmp_path):
    save_file(mask, tmp_path / "mask.safetensors")
    with pytest.raises(DataError, match=words):
        _run(apply_mask(path=str(tmp_path / "mask.safetensors")), _net(), X)


def test_a_mask_file_that_cannot_be_read_is_named_and_never_unpickled(tmp_path):
    np.savez(tmp_path / "objects.npz", a=np.array([{"a": 1}], dtype=object))
    (tmp_path / "broken.safetensors").write_bytes(b"\x01\x02")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    np.save(tmp_path / "single.npy", np.ones(3))
    for name in ("objects.npz", "broken.safetensors", "broken.npz", "single.npy", "absent.npz"):
        with pytest.raises(DataError, match=name):
            _run(apply_mask(path=str(tmp_path / name)), _net(), X)
    with pytest.raises(DataError, match=r"give path=… of your own masks"):
        _run(apply_mask(), _net(), X)
