"""Refitting against numpy's least squares on all rows, on images that were not seen, and behind every lossy pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, Workload, capture
from fxopt.errors import DataError
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.groups import find_groups
from fxopt.passes.prune.zeroing import zero
from fxopt.passes.refit.counterparts import counterparts
from fxopt.passes.refit.refit import refit
from fxopt.workload import find_workload

pytestmark = pytest.mark.usefixtures("one_thread")
_ALL = {"positions": 10**6, "ridge": 1e-12}


class Data:
    metric = "none"

    def __init__(self, *shape: int, count: int = 64) -> None:
        self.x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(5))
        self.x = self.x + self.x.roll(1, 1) + 0.5  # channels that tell of one another

    def batches(self, split, *, batch_size, seed=None):
        for some in self.x.split(batch_size):
            yield (some,), None


def pruned(model: nn.Module, data: Data, gone: dict[int, list[int]]):
    """The dense program, the one with these atoms zeroed (by group, then number), its workload, sweep and dead atoms."""
    program = capture(model.eval(), (data.x[:2],))
    workload = Workload(name="mine", model=lambda: model, inputs=lambda: (program.args, {}), data=data)
    sweep = couple(program)
    groups = find_groups(sweep)
    dead = np.zeros(len(sweep.atoms), bool)
    for group, atoms in gone.items():
        dead[groups[group].atoms[atoms]] = True
    before = program.copy()
    zero(program, sweep, dead)
    return before, program, workload, sweep, dead


def reconstruct(before: Program, program: Program, workload, sweep, dead, **options):
    """Refit the layers that read dead atoms, as zero_channels does."""
    reads = {c.node.name for c in sweep.contractions if c.weight is not None and dead[sweep.resolve(c.rows)].any()}
    pairs, reasons = counterparts(before, program)
    for node, reason in reasons.items():
        program.skip(node, reason)
    return refit(before, program, workload, [pair for pair in pairs if pair.layer.node.name in reads], **options)


def values(program: Program, x: torch.Tensor, *names: str) -> list[torch.Tensor]:
    """Values of nodes in one run."""
    found = {}

    class Tap(torch.fx.Interpreter):
        def run_node(self, n):
            found[n.name] = super().run_node(n)
            return found[n.name]

    with torch.no_grad():
        Tap(program.module).run(x, enable_io_processing=False)
    return [found[name].double() for name in names]


def oracle(x: torch.Tensor, y: torch.Tensor, bias: bool) -> tuple[np.ndarray, np.ndarray]:
    ones = np.ones((len(x), 1)) if bias else np.zeros((len(x), 0))
    solved = np.linalg.lstsq(np.hstack([x.numpy(), ones]), y.numpy(), rcond=None)[0]
    return solved[: x.shape[1]].T, solved[x.shape[1] :]


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_the_least_squares_solution(bias):
    torch.manual_seed(0)
    data = Data(9, 6, count=128)
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5, bias=bias))
    before, program, workload, sweep, dead = pruned(net, data, {0: [1, 3, 6]})
    (refit,) = reconstruct(before, program, workload, sweep, dead, samples=128, who="me", **_ALL)
    (y,), (x,) = values(before, data.x, "linear_1"), values(program, data.x, "gelu")
    left = [0, 2, 4, 5, 7]
    weight, shift = oracle(x.flatten(0, 1)[:, left], y.flatten(0, 1), bias)
    got = program.tensors()["2.weight"].detach()
    np.testing.assert_allclose(got[:, left], weight, rtol=1e-3, atol=1e-4)
    assert not got[:, [1, 3, 6]].any()
    if bias:
        np.testing.assert_allclose(program.tensors()["2.bias"].detach(), shift[0], rtol=1e-3, atol=1e-4)
    assert refit.refitted < refit.zeroed
    assert torch.equal(before.tensors()["2.weight"], net[2].weight)


@pytest.mark.parametrize(
    ("groups", "options"),
    [
        (1, {"padding": 1}),
        (1, {"padding": "same", "dilation": 2}),
        (1, {"stride": 2, "padding": (0, 2)}),
        (2, {"padding": 1, "stride": (1, 2), "bias": False}),
    ],
)
def test_a_convolution_is_the_least_squares_solution(groups, options):
    torch.manual_seed(0)
    data = Data(3, 8, 8)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=groups, **options))
    gone = {0: [2]} if groups > 1 else {0: [2, 5]}
    before, program, workload, sweep, dead = pruned(net, data, gone)
    (refit,) = reconstruct(before, program, workload, sweep, dead, samples=64, who="me", **_ALL)
    (y,), (read,) = values(before, data.x, "conv2d_1"), values(program, data.x, "relu")
    got = program.tensors()["2.weight"].detach()
    zeroed = (got == 0).flatten(2).all(2)  # [out, in / groups]
    assert zeroed.any()
    assert torch.equal(zeroed.sum(0) % (4 // groups), torch.zeros(8 // groups, dtype=torch.long))
    conv = net[2]
    pad = {"same": (2, 2, 2, 2), 1: (1, 1, 1, 1), (0, 2): (2, 2, 0, 0)}[options["padding"]]
    patches = F.unfold(F.pad(read, pad), 3, dilation=conv.dilation, stride=conv.stride)  # [n, in * 9, positions]
    for group in range(groups):
        out = slice(group * 4 // groups, (group + 1) * 4 // groups)
        left = (~zeroed[out][0]).nonzero()[:, 0]
        x = patches.unflatten(1, (groups, 8 // groups, 9))[:, group][:, left].flatten(1, 2)
        rows, wanted = x.transpose(1, 2).flatten(0, 1), y.movedim(1, -1).flatten(0, -2)[:, out]
        weight, _ = oracle(rows, wanted, "bias" not in options)
        np.testing.assert_allclose(got[out][:, left].flatten(1), weight, rtol=2e-3, atol=2e-4)
    assert refit.refitted < refit.zeroed


def test_drawn_rows_are_those_of_the_layer():
    """With the dense weight nothing is lacking; patches at other positions than the outputs' would show."""
    from fxopt.passes.common.layer_rows import layer_of

    for layer, shape in (
        (nn.Conv1d(4, 6, 3, stride=2, padding=2, groups=2), (3, 4, 11)),
        (nn.Conv3d(2, 4, (1, 3, 2), padding=1), (2, 2, 4, 5, 6)),
        (nn.Conv2d(2, 3, (2, 3), padding="same"), (2, 5, 6)),
    ):
        x = torch.randn(*shape)
        program = capture(layer, (x,), dynamic=None)
        node = next(program.find("aten.conv1d", "aten.conv2d", "aten.conv3d"))
        found = layer_of(node, node.args[1])
        y = layer(x).detach()
        rows, given = found.rows(x, y, 20, torch.Generator().manual_seed(0))
        made = torch.einsum("gnik,goik->ngo", rows, found.matrix(layer.weight.detach()))
        made += layer.bias.detach().reshape(found.groups, -1)
        torch.testing.assert_close(made, given)


def test_rows_that_were_zeroed_stay_zero():
    """Query and key have no weight that reads them: their rows are zeroed, and their layers read dead channels too."""
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Linear(6, 8)
            self.q, self.k, self.v, self.o = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 4)

        def forward(self, x):
            x = self.up(x).relu()
            q, k, v = (f(x).unflatten(-1, (3, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    data = Data(9, 6, count=64)
    program = capture(Block(), (data.x[:2],))
    groups = find_groups(couple(program))
    qk = next(
        i for i, g in enumerate(groups) if g.unit == "head_dims" and any("q.weight" in p.weight for p in g.places)
    )
    up = next(i for i, g in enumerate(groups) if g.unit == "channels")
    before, program, workload, sweep, dead = pruned(Block(), data, {qk: [1], up: [0, 5]})
    zeroed = {name: tensor == 0 for name, tensor in program.tensors().items()}
    assert zeroed["q.bias"].sum() == 3
    done = reconstruct(before, program, workload, sweep, dead, samples=64, who="me")
    assert {"linear_1", "linear_2", "linear_3"} <= {refit.node for refit in done}
    for name, tensor in program.tensors().items():
        assert torch.equal(tensor == 0, zeroed[name]), name


def test_earlier_layers_feed_later_ones():
    """Two layers in a row: the second is fitted to what comes through the first as it is refitted."""
    torch.manual_seed(0)
    data = Data(9, 6, count=128)
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5))
    before, program, workload, sweep, dead = pruned(net, data, {0: [1, 3], 1: [0, 7]})
    first, second = reconstruct(before, program, workload, sweep, dead, samples=128, who="me", **_ALL)
    assert (first.node, second.node) == ("linear_1", "linear_2")
    (y,), (x,) = values(before, data.x, "linear_2"), values(program, data.x, "gelu_1")
    weight, _ = oracle(x.flatten(0, 1)[:, 1:7], y.flatten(0, 1), True)
    np.testing.assert_allclose(program.tensors()["4.weight"].detach()[:, 1:7], weight, rtol=2e-3, atol=2e-4)


def test_shared_weights_are_left_alone():
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(6, 6)

        def forward(self, x):
            return self.b(self.a(x).relu()) + self.b(self.c(x).relu())

    data = Data(6, count=64)
    before, program, workload, sweep, dead = pruned(Twice(), data, {0: [2]})
    kept = program.fingerprint()
    assert reconstruct(before, program, workload, sweep, dead, samples=64, who="me") == []
    assert program.fingerprint() == kept
    assert any("several places" in skip.reason for skip in program.skips)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fit_that_is_no_better_on_other_rows_is_not_taken(dtype):
    """The channel that goes is independent of the others, and the rows are few."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 4, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(40))
        net[0].bias.zero_()
    data = Data(40, count=24)
    data.x = torch.randn(24, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    before, program, workload, sweep, dead = pruned(net.to(dtype), data, {0: [3]})
    kept = program.fingerprint()
    assert reconstruct(before, program, workload, sweep, dead, samples=24, who="me", ridge=1e-9) == []
    assert program.fingerprint() == kept
    assert "held-out examples" in program.skips[-1].reason


def test_images_that_were_not_seen_come_out_nearer():
    workload = find_workload("digits")
    program = workload.capture()
    sweep = couple(program)
    dead = np.zeros(len(sweep.atoms), bool)
    for group in find_groups(sweep):
        if group.unit != "heads":
            dead[group.atoms[: len(group.atoms) // 3]] = True
    before = program.copy()
    zero(program, sweep, dead)
    images = torch.cat([args[0] for args, _ in workload.data.batches("test", batch_size=64)])
    wanted, zeroed = before(images), program(images)
    done = reconstruct(before, program, workload, sweep, dead, samples=128, who="me")
    assert len(done) > 10
    assert (program(images) - wanted).norm() < 0.5 * (zeroed - wanted).norm()
    for contraction in sweep.contractions:  # what was zeroed is zero still
        gone = torch.from_numpy(dead[sweep.resolve(contraction.rows)].any(1))
        weight = program.tensor(contraction.weight)
        assert not contraction.blocks((weight != 0).to(torch.uint8)).amax((1, 3)).ravel()[gone].any()


def test_without_data_the_error_names_who_asked():
    before, program, workload, sweep, dead = pruned(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 5)), Data(6), {0: [1]})
    workload = None
    with pytest.raises(DataError, match="zero_channels needs data"):
        reconstruct(before, program, workload, sweep, dead, samples=8, who="zero_channels")
    dead[:] = False
    assert reconstruct(before, program, workload, sweep, dead, samples=8, who="zero_channels") == []


# ---- zeros and equations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outs", [5, 40])
def test_single_zeros_stay_and_outputs_are_least_squares_of_what_is_left(outs):
    """A few patterns of zeros are solved one by one, many by conjugate gradients."""
    torch.manual_seed(0)
    data = Data(9, 6, count=128)
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, outs))
    with torch.no_grad():
        net[2].weight.masked_fill_(torch.rand(outs, 8) < 0.3, 0)
    before, program, workload, sweep, dead = pruned(net, data, {0: [1]})
    (refit,) = reconstruct(before, program, workload, sweep, dead, samples=128, who="me", **_ALL)
    (y,), (x,) = values(before, data.x, "linear_1"), values(program, data.x, "gelu")
    got = program.tensors()["2.weight"].detach()
    zero = (net[2].weight == 0) | (torch.arange(8) == 1)
    assert torch.equal(got == 0, zero)
    for out in range(outs):
        left = (~zero[out]).nonzero()[:, 0]
        weight, _ = oracle(x.flatten(0, 1)[:, left], y.flatten(0, 1)[:, out : out + 1], True)
        np.testing.assert_allclose(got[out, left], weight[0], rtol=2e-3, atol=2e-4)
    assert refit.refitted < refit.zeroed


def test_memory_of_the_equations_does_not_depend_on_the_rows():
    from fxopt.passes.refit.normal_equations import NormalEquations

    torch.manual_seed(0)
    x, lack = torch.randn(2, 500, 7, dtype=torch.float64), torch.randn(2, 500, 3, dtype=torch.float64)
    one, many = NormalEquations(2, 7, 3), NormalEquations(2, 7, 3)
    one.add(x, lack)
    for part in range(0, 500, 25):
        many.add(x[:, part : part + 25], lack[:, part : part + 25])
    torch.testing.assert_close(one.gram, many.gram)
    assert many.gram.numel() + many.cross.numel() == 2 * (64 + 24)
    change = torch.randn(2, 8, 3, dtype=torch.float64)
    ones = torch.cat([x, torch.ones(2, 500, 1, dtype=torch.float64)], 2)
    assert many.error(change) == pytest.approx(float((lack - ones @ change).square().sum()))


# ---- the pass, behind whatever lost something ----------------------------------------------------------------------


class Images:
    """Smooth random images of 4 channels, other ones for each split."""

    metric = "none"

    def batches(self, split, *, batch_size, seed=None):
        x = torch.randn(96, 4, 10, 10, generator=torch.Generator().manual_seed(len(split)))
        for some in F.avg_pool2d(x + x.roll(1, 1), 3, 1).split(batch_size):
            yield (some,), None


class Net(nn.Module):
    """Convolutions with batch norms, a skip, groups, and a linear."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(4, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a, self.b = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1, groups=2)
        self.head = nn.Linear(16, 6)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = (x + self.b(self.a(x).relu())).relu()
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    module = Net().eval()
    with torch.no_grad():
        module.norm.running_mean.uniform_(-0.2, 0.2)
        module.norm.running_var.uniform_(0.5, 2)
    return capture(module, (torch.randn(2, 4, 8, 8),))


def behind(program, text, again="reconstruct(samples=96)"):
    """The program behind lossy passes, and behind these and the refitting; and what that left alone."""
    workload = Workload(name="mine", model=lambda: program.module, inputs=lambda: (program.args, {}), data=Images())
    lossy = Pipeline.parse(text).run(program, workload=workload, watchers=()).program
    outcome = Pipeline.parse(f"{text}, {again}").run(program, workload=workload)
    return lossy, outcome.program, [str(skip) for skip in outcome.steps[-1].skips]


def errors(program, lossy, refitted):
    (x,), _ = next(Images().batches("test", batch_size=96))
    want = program(x)
    return [float((other(x) - want).norm() / want.norm()) for other in (lossy, refitted)]


@pytest.mark.parametrize(
    "text",
    [
        "prune_channels(ratio=0.4)",
        "prune_channels(ratio=0.3), prune_channels(ratio=0.2)",
        "fold_batch_norm, prune_channels(ratio=0.4)",
        "prune_channels(ratio=0.4), fold_batch_norm",
        "sparsify(ratio=0.6)",
        "sparsify(pattern='2:4')",
        "low_rank(form='channel', ratio=0.6)",
        "low_rank(form='spatial', ratio=0.6)",
        "prune_channels(ratio=0.2), low_rank(form='tucker', ratio=0.5)",
        "low_rank(form='channel', ratio=0.5), prune_channels(ratio=0.2)",
    ],
)
def test_images_that_were_not_seen_come_nearer_and_the_structure_is_kept(net, text):
    lossy, refitted, _ = behind(net, text)
    before, after = errors(net, lossy, refitted)
    assert after < 0.8 * before
    assert refitted.text() == lossy.text()
    for name, tensor in lossy.tensors().items():
        assert torch.equal(tensor == 0, refitted.tensors()[name] == 0) or "bias" in name, name


def test_pruned_channels_follow_those_of_the_original_that_were_kept(net):
    """Refitting towards other channels would give a fit as good by its own measure, and another function."""
    lossy, refitted, skips = behind(net, "prune_channels(ratio=0.5, only=('a',))")
    assert not [skip for skip in skips if "no better" not in skip]
    (x,), _ = next(Images().batches("test", batch_size=96))
    (want,), (had,), (got,) = (values(p, x, "conv2d_1") for p in (net, lossy, refitted))
    assert had.shape[1] == 12
    whole, kept = (t.detach().double().flatten(1) for t in (net.tensors()["a.weight"], lossy.tensors()["a.weight"]))
    index = torch.cdist(kept, whole).argmin(1)
    torch.testing.assert_close(had, want[:, index])
    assert (got - want[:, index]).norm() <= 0.05 * want.norm()


def test_what_has_no_counterpart_is_left_with_the_reason(net):
    _, _, skips = behind(net, "low_rank(form='channel', ratio=0.5)")
    assert sum("within a chain" in skip for skip in skips) == 4
    _, refitted, skips = behind(net, "truncate_rank(form='channel', ratio=0.5)")
    assert sum("factorize first" in skip for skip in skips) == 4
    lossy, refitted, skips = behind(net, "quantize")
    assert refitted.fingerprint() == lossy.fingerprint()
    assert sum("it is quantized" in skip for skip in skips) == 4


@pytest.mark.parametrize("block", [0, 16])
def test_scales_and_biases_of_weights_in_few_bits_are_the_least_squares_solution(block):
    """The codes stay. The oracle regresses each output on what every block of its codes gives."""
    torch.manual_seed(0)
    program = capture(nn.Sequential(nn.Linear(40, 6), nn.GELU(), nn.Linear(6, 3)).eval(), (torch.randn(2, 40),))
    data = Data(40, count=96)
    workload = Workload(name="mine", model=lambda: None, inputs=lambda: (program.args, {}), data=data)
    lossy = (
        Pipeline.parse(f"quantize_weights(bits=4, block={block}, keep_float=('2',))").run(program, watchers=()).program
    )
    pairs, _ = counterparts(program, lossy)
    again = lossy.copy()
    pairs, _ = counterparts(program, again)
    done = refit(program, again, workload, [pair for pair in pairs if pair.coded], samples=96, who="me", ridge=1e-12)
    assert [one.node for one in done] == ["linear"]
    codes = lossy.tensors()["0.weight_int4"].double()[:, :40]
    assert torch.equal(codes, again.tensors()["0.weight_int4"].double()[:, :40])
    size = block or 40
    (y,) = values(program, data.x, "linear")
    for out in range(6):
        parts = [data.x[:, i : i + size].double() @ codes[out, i : i + size] for i in range(0, 40, size)]
        scales, bias = oracle(torch.stack(parts, 1), y[:, out : out + 1], True)
        np.testing.assert_allclose(again.tensors()["0.weight_scale"][out].detach(), scales[0], rtol=1e-3)
        np.testing.assert_allclose(again.tensors()["0.bias"][out].detach(), bias[0, 0], rtol=1e-2, atol=1e-4)


def test_where_nothing_was_lost_nothing_is_changed(net):
    same, refitted, skips = behind(net, "drop_noop")
    assert refitted.fingerprint() == same.fingerprint()
    assert "its outputs are the original's" in skips[-1]


def test_the_pass_without_data_says_so(net):
    with pytest.raises(DataError, match="reconstruct needs data"):
        Pipeline.parse("prune_channels(ratio=0.4), reconstruct").run(net, watchers=())


def test_a_second_pruning_in_the_same_pipeline_refits_against_what_the_first_left():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    data = Data(3, 10, 10)
    program = capture(model, (data.x[:2],))
    workload = Workload(name="mine", model=lambda: model, inputs=lambda: (program.args, {}), data=data)
    errors = []
    for options in ("", ", reconstruct=True"):
        passes = f"prune_channels(ratio=0.25), prune_channels(ratio=0.3{options})"
        small = Pipeline.parse(passes).run(program, workload=workload, watchers=()).program
        errors.append(float((small(data.x) - program(data.x)).square().mean()))
    assert errors[1] < errors[0]
