"""equalize, absorb_bias, widen_clamp: against the paper's formulas in float64, and what they do for quantization."""

from __future__ import annotations

import copy
import re
from itertools import pairwise

import pytest
import torch
from cases.ill_scaled import DepthwiseNet, ill_scaled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Workload, capture
from fxopt.errors import DataError
from fxopt.ir.parser import parse_program
from fxopt.ir.printer import op_name
from fxopt.numerics.error_metrics import sqnr
from fxopt.testing import small_workload

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def run(spec, net, *shape, watchers=None):
    """What the passes make of a network, proved by the pipeline; and every reason that they gave."""
    torch.manual_seed(0)
    x = torch.randn(shape)
    program = capture(net.eval(), (x.to(next(net.parameters()).dtype),))
    outcome = Pipeline.parse(spec).run(program, workload=small_workload(program), watchers=watchers)
    return outcome, [skip.reason for step in outcome.steps for skip in step.skips]


def weights(outcome):
    return {name: tensor.detach().double() for name, tensor in outcome.program.tensors().items()}


def made(weight, transposed=False, groups=1):
    """Range of every channel that a layer with this weight makes."""
    if transposed:
        return weight.unflatten(0, (groups, -1)).abs().amax((1, 3, 4)).flatten()
    return weight.abs().flatten(1).amax(1)


def read(weight, channels, groups=1, transposed=False):
    """Range of every channel that a layer with this weight reads; of a linear behind flatten, over all its pixels."""
    if transposed:
        return weight.abs().flatten(1).amax(1)
    if weight.dim() == 2:
        return weight.abs().reshape(len(weight), channels, -1).amax((0, 2))
    return weight.abs().flatten(2).amax(2).unflatten(0, (groups, -1)).amax(1).flatten()


def uneven(net, seed=0):
    """The network with channels of very different ranges."""
    torch.manual_seed(seed)
    for part in net.modules():
        if isinstance(part, LAYERS):
            with torch.no_grad():
                part.weight.mul_(torch.exp(2 * torch.randn(len(part.weight), *[1] * (part.weight.dim() - 1))))
    return net


# ---- the paper's formulas ------------------------------------------------------------------------------------------


def test_two_layers_get_the_scales_of_equation_11():
    net = uneven(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)))
    first, second = (net[i].weight.detach().double() for i in (0, 2))
    r1, r2 = first.abs().amax((1, 2, 3)), second.abs().amax((0, 2, 3))
    s = (r1 * r2).sqrt() / r2
    outcome, _ = run("equalize", net, 2, 3, 8, 8)
    got = weights(outcome)
    torch.testing.assert_close(got["0.weight"], first / s[:, None, None, None], rtol=1e-5, atol=0)
    torch.testing.assert_close(got["0.bias"], net[0].bias.detach().double() / s, rtol=1e-5, atol=0)
    torch.testing.assert_close(got["2.weight"], second * s[:, None, None], rtol=1e-5, atol=0)
    torch.testing.assert_close(got["2.bias"], net[2].bias.detach().double(), rtol=0, atol=0)


def test_around_a_depthwise_layer_all_three_get_the_geometric_mean():
    net = uneven(
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    )
    r1, r2 = made(net[0].weight.detach().double()), made(net[2].weight.detach().double())
    r3 = net[4].weight.detach().double().abs().amax((0, 2, 3))
    want = (r1 * r2 * r3) ** (1 / 3)
    outcome, _ = run("equalize", net, 2, 3, 8, 8)
    got = weights(outcome)
    for range_ in (made(got["0.weight"]), made(got["2.weight"]), got["4.weight"].abs().amax((0, 2, 3))):
        torch.testing.assert_close(range_, want, rtol=2e-3, atol=0)


@st.composite
def chains(draw):
    """Layers with homogeneous ops between them, for images [2,3,8,8]."""
    layers, width = [], 3
    for _ in range(draw(st.integers(2, 5))):
        kind = draw(st.sampled_from(["conv", "depthwise", "grouped", "point", "transposed"]))
        out = width if kind == "depthwise" else draw(st.sampled_from([4, 8]))
        bias = draw(st.booleans())
        if kind == "transposed":
            layers.append(nn.ConvTranspose2d(width, out, 2, bias=bias, groups=2 if width % 2 == 0 else 1))
        else:
            groups = {"depthwise": width, "grouped": 2 if width % 2 == 0 else 1}.get(kind, 1)
            layers.append(nn.Conv2d(width, out, 1 if kind == "point" else 3, padding=1, groups=groups, bias=bias))
        width = out
        between = [
            nn.ReLU(),
            nn.LeakyReLU(0.1),
            nn.PReLU(width),
            nn.MaxPool2d(2, 1),
            nn.AvgPool2d(2, 1, 1),
            nn.Dropout(),
        ]
        layers += draw(st.lists(st.sampled_from(between), max_size=2))
    head = draw(st.sampled_from(["pool", "flatten"]))
    layers += [
        nn.AdaptiveAvgPool2d(1 if head == "pool" else 2),
        nn.Flatten(),
        nn.Linear(width * (1 if head == "pool" else 4), 3),
    ]
    return uneven(nn.Sequential(*layers), draw(st.integers(0, 99)))


@settings(max_examples=10, deadline=None)
@given(chains())
def test_a_chain_ends_where_every_channel_has_one_range_on_both_sides(net):
    outcome, reasons = run("equalize", net, 2, 3, 8, 8)
    assert outcome.steps[0].changed
    assert outcome.steps[0].findings.error < 1e-9
    assert len(reasons) == 1, "the last layer is the only one whose channels stay"
    got = weights(outcome)
    layers = [(name, part) for name, part in net.named_children() if isinstance(part, LAYERS)]
    for (a, first), (b, second) in pairwise(layers):
        r1 = made(got[f"{a}.weight"], isinstance(first, nn.ConvTranspose2d), getattr(first, "groups", 1))
        transposed = isinstance(second, nn.ConvTranspose2d)
        r2 = read(got[f"{b}.weight"], len(r1), getattr(second, "groups", 1), transposed)
        torch.testing.assert_close(r1, r2, rtol=2e-3, atol=0)
    again = Pipeline.parse("equalize").run(outcome.program)
    assert not again.steps[0].changed


class _Residual(nn.Module):
    """A residual stream with two readers, a concatenation that is shuffled and cut in two, and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.c, self.left, self.right, self.head = (
            nn.Conv2d(8, 4, 1),
            nn.Conv2d(6, 5, 1),
            nn.Conv2d(6, 5, 1),
            nn.Linear(5, 3),
        )

    def forward(self, x):
        stream = F.relu(self.stem(x))
        stream = F.relu(stream + self.b(F.relu(self.a(stream))))
        both = torch.cat([stream, self.c(stream)], 1)
        n, _, high, wide = both.shape
        left, right = both.view(n, 2, 6, high, wide).transpose(1, 2).reshape(n, 12, high, wide).chunk(2, 1)
        y = torch.maximum(self.left(left), self.right(right)) * 0.5
        return self.head(F.pad(y, (1, 1, 0, 0)).mean((2, 3)).view(x.size(0), -1))


def test_sums_concatenations_and_several_readers_are_one_layer_with_more_weights():
    outcome, reasons = run("equalize", uneven(_Residual()), 2, 3, 5, 5)
    assert reasons == ["3 of its 3 channels keep their scale: it is an output of the model"]
    got = {name.removesuffix(".weight"): w for name, w in weights(outcome).items() if name.endswith(".weight")}
    order = torch.arange(12).view(2, 6).t().reshape(-1)  # after the shuffle, place p holds channel order[p]
    shuffled = torch.empty(12, dtype=torch.double)
    shuffled[order] = torch.cat([read(got["left"], 6), read(got["right"], 6)])
    equal = [
        (made(got["stem"]).maximum(made(got["b"])), read(got["a"], 8).maximum(read(got["c"], 8)).maximum(shuffled[:8])),
        (made(got["a"]), read(got["b"], 6)),
        (made(got["c"]), shuffled[8:]),
        (made(got["left"]).maximum(made(got["right"])), read(got["head"], 5)),
    ]
    for r1, r2 in equal:
        torch.testing.assert_close(r1, r2, rtol=2e-3, atol=0)
    assert not Pipeline.parse("equalize").run(outcome.program).steps[0].changed


def test_linears_over_tokens_have_their_channels_last():
    net = uneven(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)))
    got = weights(run("equalize", net, 2, 5, 4)[0])
    torch.testing.assert_close(made(got["0.weight"]), read(got["2.weight"], 6), rtol=2e-3, atol=0)


def test_weights_of_sixteen_bits_are_equalized_once():
    net = uneven(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 3, 1))
    )
    outcome, _ = run("equalize, equalize", net.bfloat16(), 2, 3, 8, 8)
    assert [step.changed for step in outcome.steps] == [True, False]


# ---- what stays ----------------------------------------------------------------------------------------------------


def between(op):
    """An op between two convolutions."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            return op(self, x)

    return uneven(Net())


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (lambda net, x: net.b(torch.sigmoid(net.a(x))), "aten.sigmoid is not positively homogeneous"),
        (lambda net, x: net.b(F.hardswish(net.a(x))), "aten.hardswish is not positively homogeneous"),
        (lambda net, x: net.b(F.relu6(net.a(x))), "clamps at 6.*widen_clamp makes it a relu"),
        (lambda net, x: net.b(torch.clamp(net.a(x), -1, 1)), "clamps at -1 and 1"),
        (lambda net, x: net.b(net.norm(net.a(x))), "fold it by fold_batch_norm first"),
        (lambda net, x: net.b(net.a(x) + 1.0), "has a number for an operand"),
        (lambda net, x: net.b(net.a(x) + x), "meets channels that stay as they are"),
        (lambda net, x: net.b((y := net.a(x)) * y), "aten.mul.Tensor is not positively homogeneous"),
        (lambda net, x: (net.b(y := net.a(x)), y), "it is an output of the model"),
        (lambda net, x: net.a(F.relu(net.a(x))), "its weight is shared with another place of the graph"),
        (lambda net, x: net.b(F.relu(net.a(x))) + net.b(x), "aten.conv2d reads it, and its weight is shared"),
        (
            lambda net, x: net.b(F.pad(net.a(x), (1, 1), value=0.5)),
            "aten.(constant_)?pad.* is not positively homogeneous",
        ),
        (lambda net, x: net.b(net.a(x).mean(1, keepdim=True).expand(-1, 4, -1, -1)), "aten.mean.dim mixes channels"),
        (lambda net, x: F.conv2d(F.relu(net.a(x)), net.b.weight * 2), "computed, not stored"),
        (lambda net, x: net.b(net.a(x).transpose(1, 2)), "sums over another dim than that of the channels"),
        (lambda net, x: net.b(F.softmax(net.a(x), 1)), "aten.softmax.int is not positively homogeneous"),
    ],
)
def test_what_keeps_its_scale_has_a_reason(op, reason):
    outcome, reasons = run("equalize", between(op), 2, 4, 4, 4, watchers=())
    assert not outcome.steps[0].changed
    assert any(re.search(reason, given) for given in reasons), reasons


def test_a_channel_without_weights_keeps_its_scale_and_the_others_do_not():
    net = uneven(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1)))
    net[0].weight.data[1] = 0.0
    net[2].weight.data[:, 2] = 0.0
    outcome, reasons = run("equalize", net, 2, 3, 4, 4)
    got = weights(outcome)
    assert any(
        "2 of its 4 channels keep their scale: the weights that make or that read it are all zero" in r for r in reasons
    )
    for channel, changed in enumerate((True, False, False, True)):
        assert bool((got["0.weight"][channel] != net[0].weight[channel]).any()) is changed
    assert torch.equal(got["0.bias"][1], net[0].bias[1].double())


def test_weights_that_are_not_finite_stay():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[0].weight.data[0, 0] = float("inf")
    program = capture(net, (torch.randn(2, 4),))
    outcome = Pipeline.parse("equalize").run(program, watchers=())
    assert not outcome.steps[0].changed
    assert "its weight is no floating-point tensor, or holds NaN or infinity" in outcome.steps[0].skips[0].reason


def test_a_value_that_is_written_into_stays():
    text = """
        %x : f32[2,4]
        %w = param "a" : f32[4,4]
        %v = param "b" : f32[4,4] = [[9, 0, 0, 0], [0, 1, 0, 0], [0, 0, 5, 0], [0, 0, 0, 3]]
        %y = aten.linear(%x, %w)
        %half = aten.slice.Tensor(%y, 1, 0, 2)
        %s = aten.sigmoid_(%half)
        %z = aten.linear(%y, %v)
        return %z
    """
    outcome = Pipeline.parse("equalize").run(parse_program(text))
    assert not outcome.steps[0].changed
    assert outcome.steps[0].skips[0].reason == "it is written to in place"


# ---- widen_clamp ---------------------------------------------------------------------------------------------------


def test_clamps_from_zero_between_layers_become_relu_and_let_equalize_through():
    net = uneven(
        nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.ReLU6(), nn.Conv2d(6, 6, 3, groups=6), nn.Hardtanh(0.0, 2.0), nn.Conv2d(6, 3, 1)
        )
    )
    outcome, reasons = run("widen_clamp, equalize", net, 2, 3, 6, 6)
    assert [op_name(n) for n in outcome.program.graph.nodes if n.op == "call_function"].count("aten.relu") == 2
    assert outcome.steps[1].changed
    assert len(reasons) == 1
    got = weights(outcome)
    torch.testing.assert_close(made(got["0.weight"]), made(got["2.weight"]), rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6()), "it is an output of the model"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Sigmoid(), nn.Conv2d(4, 4, 1)),
            "aten.sigmoid is not positively",
        ),
        (nn.Sequential(nn.ReLU6(), nn.Conv2d(3, 4, 1)), "no layer with a weight of its own makes its channels"),
    ],
)
def test_a_clamp_that_would_not_help_stays(net, reason):
    outcome, reasons = run("widen_clamp", net, 2, 3, 4, 4)
    assert not outcome.steps[0].changed
    assert any(reason in given for given in reasons)


def test_other_clamps_are_none_of_its_business():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardtanh(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    outcome, reasons = run("widen_clamp", net, 2, 3, 4, 4)
    assert not outcome.steps[0].changed
    assert not reasons


# ---- absorb_bias ---------------------------------------------------------------------------------------------------


def lifted(net):
    """The network with high biases in its first layer, undone in the second."""
    with torch.no_grad():
        net[0].bias += torch.linspace(-5, 20, len(net[0].bias))
    return net


def absorbed(net, x, spread=3):
    """The paper's formula (section 4.1.3) in float64: c, and both biases."""
    first, second = copy.deepcopy(net[0]).double(), copy.deepcopy(net[-1]).double()
    with torch.no_grad():
        h = first(x.double()).movedim(1, 0).flatten(1)
    c = (h.mean(1) - spread * h.std(1, unbiased=False)).clamp(min=0)
    weight = second.weight.detach()
    if weight.dim() == 2 and weight.shape[1] != len(c):
        c2 = c.repeat_interleave(weight.shape[1] // len(c))
    else:
        c2 = c
    one = c2.reshape(1, -1, *[1] * (weight.dim() - 2)).expand(1, -1, *weight.shape[2:])
    with torch.no_grad():
        return c, first.bias - c, second(one).flatten()


@pytest.mark.parametrize(
    "net",
    [
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)),
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=3)),
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1, stride=2), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6)),
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.MaxPool2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4)),
    ],
)
def test_biases_are_those_of_the_papers_formula(net):
    torch.manual_seed(1)
    net = lifted(net())
    program = capture(net.eval(), (torch.randn(4, 3, 8, 8),))
    workload = small_workload(program)
    x = torch.cat([args[0] for args in workload.calibration(100, "the test")])
    c, first, second = absorbed(net, x)
    assert bool((c > 0).any())
    assert bool((c == 0).any())
    outcome = Pipeline.parse("absorb_bias(images=100)").run(program, workload=workload)
    got = weights(outcome)
    torch.testing.assert_close(got["0.bias"], first, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[f"{len(net) - 1}.bias"], second, rtol=1e-5, atol=1e-5)
    assert outcome.steps[0].findings.sqnr_db > 30, "no more than what is below mean - 3 std is lost"


def test_along_a_chain_each_layer_gives_and_takes():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    net[0].bias.data += 20
    net[2].bias.data += 20
    outcome, _ = run("absorb_bias", net, 16, 8)
    got = weights(outcome)
    assert bool((got["0.bias"] < net[0].bias.double() - 1).all())
    assert outcome.steps[0].findings.sqnr_db > 30


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)), "pads with zeros: at the border"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding="same")),
            "pads with zeros: at the border",
        ),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False)), "has no bias to take it up"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 1)),
            "a constant does not pass aten.(relu6|hardtanh)",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(4, 4, 1)),
            "zeros beyond the border",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2)),
            "does not spread a constant evenly",
        ),
    ],
)
def test_a_high_bias_that_cannot_be_absorbed_has_a_reason(net, reason):
    outcome, reasons = run("absorb_bias", lifted(net), 2, 3, 6, 6, watchers=())
    assert not outcome.steps[0].changed
    assert any(re.search(reason, given) for given in reasons), reasons


def test_low_biases_are_no_place_left_alone():
    outcome, reasons = run("absorb_bias", nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid()), 2, 3, 6, 6)
    assert not outcome.steps[0].changed
    assert not reasons


def test_absorbing_needs_data_that_is_finite():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    program = capture(net, (torch.randn(2, 4),))
    with pytest.raises(DataError, match="absorb_bias needs data"):
        Pipeline.parse("absorb_bias").run(program)
    nothing = Workload(name="none", model=lambda: net, inputs=lambda: ((torch.randn(2, 4),), {}))
    with pytest.raises(DataError, match="absorb_bias needs data"):
        Pipeline.parse("absorb_bias").run(program, workload=nothing)
    net[0].weight.data.fill_(3e38)
    net[0].bias.data.fill_(3e38)
    huge = capture(net, (torch.randn(2, 4),))
    with pytest.raises(DataError, match=r"met NaN or infinity\n.*aten\.linear"):
        Pipeline.parse("absorb_bias").run(huge, workload=small_workload(program), watchers=())


# ---- quantization --------------------------------------------------------------------------------------------------


def quantized_sqnr(net, *passes, shape=(4, 1, 32, 32)):
    """SQNR in dB of the network quantized behind each of the passes, on inputs that calibration saw."""
    torch.manual_seed(0)
    program = capture(net.eval(), (torch.randn(shape),))
    workload = small_workload(program)
    (x,) = next(workload.calibration(8, "the test"))
    want = program(x)
    outcomes = [Pipeline.parse(p).run(program, workload=workload, watchers=()) for p in passes]
    return [sqnr([want], [outcome.program(x)]) for outcome in outcomes]


def normed(seed):
    """A random network whose batch norms have the statistics of random images."""
    torch.manual_seed(seed)
    net = DepthwiseNet()
    for norm in net.norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.3)
    net.train()(torch.randn(16, 1, 32, 32))
    nn.init.zeros_(net.head.bias)
    return net.eval()


@pytest.mark.parametrize("norm", [False, True])
def test_the_ill_scaled_network_computes_the_same(norm):
    torch.manual_seed(0)
    net = DepthwiseNet(norm=norm).double().eval()
    x = torch.randn(2, 1, 32, 32).double()
    spoilt = ill_scaled(net)
    assert not torch.allclose(spoilt.head.weight, net.head.weight)
    torch.testing.assert_close(spoilt(x), net(x), rtol=1e-9, atol=1e-12)


def test_equalizing_restores_ill_scaled_channels_and_costs_a_normal_network_little():
    normal = normed(0)
    before, after = quantized_sqnr(ill_scaled(normal), "quantize", "fold_batch_norm, equalize, quantize")
    plain, equal = quantized_sqnr(normal, "quantize", "fold_batch_norm, equalize, quantize")
    assert after > before + 10
    assert equal > plain - 2
    assert after > plain - 3


def test_absorbing_restores_what_high_biases_cost():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1))
    net[0].bias.data += 30
    with torch.no_grad():
        net[2].bias -= net[2].weight.sum((1, 2, 3)) * 30
    before, after = quantized_sqnr(
        net, "quantize(correct_bias='none')", "absorb_bias, quantize(correct_bias='none')", shape=(4, 3, 8, 8)
    )
    assert after > before + 10
