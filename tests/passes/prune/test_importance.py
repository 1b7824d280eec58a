"""Importance against plain loops in float64, autograd, scipy and the peer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import nn
from torch.nn import functional as F

from fxopt import Program, Workload, capture
from fxopt.errors import DataError, PassError, UnknownNameError, UsageError
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.groups import find_groups
from fxopt.passes.prune.importance.score import NAMES, score
from fxopt.passes.prune.zeroing import zero

pytestmark = pytest.mark.usefixtures("one_thread")


class Net(nn.Module):
    """Two convolutions and a residual addition: the groups are c0 with c2, and c1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.c0, self.b0 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.c1 = nn.Conv2d(6, 5, 3, padding=1)
        self.c2 = nn.Conv2d(5, 6, 1)
        self.fc = nn.Linear(6, 3)
        nn.init.uniform_(self.b0.weight, -1, 1)

    def forward(self, x):
        y = self.b0(self.c0(x)).relu()
        y = y + self.c2(self.c1(y).relu())
        return self.fc(y.mean((2, 3)))


class Heads(nn.Module):
    """Attention of 3 heads of 4."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.q, self.k, self.v, self.o = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x):
        q, k, v = (f(x).reshape(len(x), 5, 3, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), 5, 12))


class Data:
    metric = "none"

    def __init__(self, *shape: int) -> None:
        self.x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(5))
        self.y = torch.arange(8) % 3

    def batches(self, split, *, batch_size, seed=None):
        for some in torch.arange(8).split(batch_size):
            yield (self.x[some],), self.y[some]

    def loss(self, output, target):
        return F.cross_entropy(output, target)


DATA = Data(2, 4, 4)


WORKLOAD = Workload(name="mine", model=lambda: Net(), inputs=lambda: ((DATA.x,), {}), data=DATA)


def programs(model: nn.Module, *shape: int) -> Program:
    return capture(model.eval(), (torch.randn(2, *(shape or (2, 4, 4))),), dynamic=None)


def scores(program: Program, by: str, workload: Workload | None = WORKLOAD, **options) -> dict[str, np.ndarray]:
    """Scores of each group by its name, without normalisation unless asked."""
    sweep = couple(program)
    groups = find_groups(sweep)
    found = score(
        program, sweep, groups, **{"by": by, "normalize": "none", "workload": workload, "who": "me"} | options
    )
    outside = np.ones(len(found), bool)
    outside[np.concatenate([g.atoms for g in groups])] = False
    assert len(found) == len(sweep.atoms)
    assert np.isposinf(found[outside]).all()
    return {group.name: found[group.atoms] for group in groups}


def loops(places, size, each, reduce=np.mean, skip=()) -> np.ndarray:
    """A number for each channel: of every place (weight, dim) what ``each`` says of its cells, reduced."""
    return np.array(
        [reduce([each(w.detach().double().select(dim, i).numpy().ravel()) for w, dim in places]) for i in range(size)]
    )


def residual(net: Net):
    return [(net.c0.weight, 0), (net.b0.weight, 0), (net.c1.weight, 1), (net.c2.weight, 0), (net.fc.weight, 1)]


@pytest.mark.parametrize(("by", "each"), [("l1", lambda c: abs(c).sum()), ("l2", lambda c: (c**2).sum())])
@pytest.mark.parametrize(("reduce", "plain"), [("mean", np.mean), ("sum", np.sum), ("max", np.max)])
def test_magnitude_is_that_of_all_cells_that_hang_on_a_channel(by, each, reduce, plain):
    net = Net()
    found = scores(programs(net), by, reduce=reduce)
    assert set(found) == {"c0.weight[0]", "c1.weight[0]"}
    np.testing.assert_allclose(found["c0.weight[0]"], loops(residual(net), 6, each, plain), rtol=1e-5)
    inner = [(net.c1.weight, 0), (net.c2.weight, 1)]
    np.testing.assert_allclose(found["c1.weight[0]"], loops(inner, 5, each, plain), rtol=1e-5)


def test_normalised_scores_of_a_group_have_a_mean_or_largest_of_one():
    bare = scores(programs(Net()), "l1")
    for normalize, size in (("mean", np.mean), ("max", np.max)):
        for name, values in scores(programs(Net()), "l1", normalize=normalize).items():
            np.testing.assert_allclose(values, bare[name] / size(bare[name]))


def test_heads_are_the_sum_of_their_channels():
    net = Heads()
    found = scores(programs(net, 5, 8), "l1")
    want = np.mean(
        [w.detach().abs().movedim(d, 0).reshape(3, 4, -1).sum((1, 2)) for w, d in
         [(net.q.weight, 0), (net.k.weight, 0), (net.v.weight, 0), (net.o.weight, 1)]], 0
    )  # fmt: skip
    heads = next(values for name, values in found.items() if len(values) == 3)
    np.testing.assert_allclose(heads, want, rtol=1e-5)


def test_batch_norm_reads_gamma_and_leaves_other_groups_to_l2():
    net = Net()
    program = programs(net)
    found = scores(program, "batch_norm")
    np.testing.assert_allclose(found["c0.weight[0]"], net.b0.weight.detach().abs(), rtol=1e-6)
    np.testing.assert_allclose(found["c1.weight[0]"], scores(programs(net), "l2")["c1.weight[0]"])
    (skip,) = program.skips
    assert "no batch norm scales these channels, so l2 ranks c1.weight[0]" in skip.reason
    assert "conv2d" in skip.node
    with pytest.raises(PassError, match=r"batch norm(.|\n)*aten\.(.|\n)*test_importance\.py"):
        scores(programs(Heads(), 5, 8), "batch_norm")


@pytest.mark.parametrize("by", ["taylor", "hessian"])
def test_loss_driven_criteria_against_autograd(by):
    net = Net().eval()
    found = scores(programs(net), by, samples=8)
    weights = [w for w, _ in residual(net)]
    each = [torch.autograd.grad(DATA.loss(net(DATA.x[i : i + 1]), DATA.y[i : i + 1]), weights) for i in range(8)]
    values = []
    for (weight, dim), gradients in zip(residual(net), zip(*each, strict=True), strict=True):
        g = torch.stack(gradients).double()
        cells = weight.detach().double() * (g.mean(0) if by == "taylor" else weight.detach() * (g**2).mean(0) / 2)
        values.append(cells.movedim(dim, 0).reshape(6, -1).sum(1).abs())
    np.testing.assert_allclose(found["c0.weight[0]"], torch.stack(values).mean(0), rtol=1e-3, atol=1e-7)


def test_activation_is_the_mean_size_of_what_layers_read():
    net = Net().eval()
    with torch.no_grad():
        y = net.b0(net.c0(DATA.x)).relu()
        z = net.c1(y).relu()
        pooled = (y + net.c2(z)).mean((2, 3))
    found = scores(programs(net), "activation", samples=8)
    np.testing.assert_allclose(found["c1.weight[0]"], z.abs().mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["c0.weight[0]"], (y.abs().mean((0, 2, 3)) + pooled.abs().mean(0)) / 2, rtol=1e-5)


def test_wanda_is_the_energy_that_a_channel_adds_to_what_its_readers_give():
    net = Net().eval()
    with torch.no_grad():
        y = net.b0(net.c0(DATA.x)).relu()
        z = net.c1(y).relu()
        pooled = (y + net.c2(z)).mean((2, 3))
        first = (net.c1.weight.double() ** 2).sum((0, 2, 3)) * (y.double() ** 2).mean((0, 2, 3))
        last = (net.fc.weight.double() ** 2).sum(0) * (pooled.double() ** 2).mean(0)
        inner = (net.c2.weight.double() ** 2).sum((0, 2, 3)) * (z.double() ** 2).mean((0, 2, 3))
    found = scores(programs(net), "wanda", samples=8)
    np.testing.assert_allclose(found["c1.weight[0]"], inner / inner.sum(), rtol=1e-5)
    np.testing.assert_allclose(found["c0.weight[0]"], (first / first.sum() + last / last.sum()) / 2, rtol=1e-5)


def test_fpgm_is_the_sum_of_distances_to_the_other_filters():
    net = Net()
    filters = [w.detach().double().flatten(1).numpy() for w in (net.c0.weight, net.c2.weight)]
    want = np.mean([cdist(f, f).sum(1) for f in filters], 0)
    np.testing.assert_allclose(scores(programs(net), "fpgm")["c0.weight[0]"], want, rtol=1e-5)


def test_lamp_divides_by_all_that_is_not_smaller():
    squares = scores(programs(Net()), "l2")["c1.weight[0]"]
    want = [s / sum(other for other in squares if other >= s) for s in squares]
    np.testing.assert_allclose(scores(programs(Net()), "lamp", normalize="mean")["c1.weight[0]"], want)


def test_chance_hangs_on_the_seed_alone():
    one, two, again = (scores(programs(Net()), "random", seed=seed) for seed in (1, 2, 1))
    for name in one:
        assert (one[name] == again[name]).all()
        assert (one[name] != two[name]).all()
    assert (one["c0.weight[0]"][:5] != one["c1.weight[0]"]).all()


@pytest.mark.parametrize("by", NAMES)
def test_what_is_gone_already_scores_nothing_and_the_rest_as_before(by):
    program = programs(Net())
    sweep = couple(program)
    groups = find_groups(sweep)
    dead = np.zeros(len(sweep.atoms), bool)
    dead[groups[0].atoms[[1, 4]]] = dead[groups[1].atoms[2]] = True
    zero(program, sweep, dead)
    found = score(program, sweep, groups, by=by, workload=WORKLOAD, samples=8, who="me")
    assert (found[dead] == 0).all()
    left = np.concatenate([g.atoms for g in groups])
    assert (found[left[~dead[left]]] > 0).mean() > 0.7  # a relu may be dead by itself
    if by not in ("lamp", "random"):
        for group in groups:
            np.testing.assert_allclose(found[group.atoms][~dead[group.atoms]].mean(), 1)


def test_zeroed_heads_dims_score_nothing_though_no_weight_consumes_them():
    program = programs(Heads(), 5, 8)
    sweep = couple(program)
    group = next(g for g in find_groups(sweep) if g.unit == "head_dims")
    dead = np.zeros(len(sweep.atoms), bool)
    dead[group.atoms[1]] = True
    zero(program, sweep, dead)
    found = score(program, sweep, [group], by="l1", who="me")
    assert found[group.atoms[1]] == 0
    assert (np.delete(found[group.atoms], 1) > 0).all()


# ---- the user's own ------------------------------------------------------------------------------------------------

OWN = """
import torch
def spread(cells) -> torch.Tensor:
    return sum(c.std(1) if c.shape[1] > 1 else c.abs()[:, 0] for c in cells)
def spoils(cells) -> torch.Tensor:
    for c in cells: c.zero_()
    return torch.ones(len(cells[0]))
def short(cells) -> torch.Tensor: return torch.ones(2)
def negative(cells) -> torch.Tensor: return -torch.ones(len(cells[0]))
def breaks(cells) -> torch.Tensor: return cells["weight"]
number = 3
"""


def test_a_function_of_the_users_own_sees_the_cells_and_cannot_spoil_them(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    net = Net()
    found = scores(programs(net), f"{tmp_path}/mine.py:spread")
    inner = [(net.c1.weight, 0), (net.c2.weight, 1)]
    np.testing.assert_allclose(found["c1.weight[0]"], loops(inner, 5, lambda c: c.std(ddof=1), np.sum), rtol=1e-4)
    program = programs(net)
    before = program.fingerprint()
    scores(program, f"{tmp_path}/mine.py:spoils")
    assert program.fingerprint() == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("short", r"group c0\.weight\[0\], 6 channels: expected scores \[6\], one for each, got \[2\]"),
        ("negative", "not negative, got -1"),
        ("breaks", "TypeError"),
        ("number", "got a int; nothing was called"),
        ("absent", "AttributeError"),
    ],
)
def test_a_function_that_is_of_no_use_is_told_what_is_wanted(tmp_path, name, words):
    (tmp_path / "mine.py").write_text(OWN)
    with pytest.raises(UsageError, match=words):
        scores(programs(Net()), f"{tmp_path}/mine.py:{name}")


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_an_unknown_criterion_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="'taylr'; did you mean 'taylor'"):
        scores(programs(Net()), "taylr")
    with pytest.raises(UnknownNameError, match="way to reduce importance 'median'"):
        scores(programs(Net()), "l1", reduce="median")


def test_weights_that_are_not_finite_are_named_with_the_users_line():
    net = Net()
    with torch.no_grad():
        net.c2.weight[0, 0] = torch.nan
    with pytest.raises(PassError, match=r"the weight 'c2.weight' holds NaN(.|\n)*conv2d(.|\n)*test_importance\.py:\d+"):
        scores(programs(net), "l1")


@pytest.mark.parametrize("by", ["taylor", "hessian", "activation"])
def test_criteria_that_need_data_say_who_asked(by):
    with pytest.raises(DataError, match=rf"me\(by='{by}'\) needs data"):
        scores(programs(Net()), by, dataclasses.replace(WORKLOAD, data=None))
    with pytest.raises(DataError, match=rf"me\(by='{by}'\) needs"):
        scores(capture(Net().eval(), (torch.randn(2, 2, 4, 4),)), by, None)


# ---- the peer ------------------------------------------------------------------------------------------------------


def test_group_magnitude_is_that_of_torch_pruning():
    from fxopt.workload import find_workload

    workload = find_workload("torchvision:resnet18")  # first, as torchvision does not import by itself
    tp = pytest.importorskip("torch_pruning", reason="the peer Torch-Pruning is not installed")
    model = workload.model().eval()
    program = capture(model, (torch.randn(1, 3, 64, 64),), dynamic=None)
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=torch.randn(1, 3, 64, 64))
    for p, name, layer in (
        (2, "layer1.0.conv1", model.layer1[0].conv1),
        (1, "conv1", model.conv1),
    ):  # one, and a stream
        found = scores(program, f"l{p}", normalize="mean")[f"{name}.weight[0]"]
        group = graph.get_pruning_group(layer, tp.prune_conv_out_channels, idxs=list(range(64)))
        want = tp.importance.GroupMagnitudeImportance(p=p)(group)
        np.testing.assert_allclose(found, want.numpy(), rtol=1e-4)
