"""AdaRound against every rounding there is, on rows it did not see, and in the graph that comes out."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, Workload, capture
from fxopt.backend.quant_policy import Policy
from fxopt.errors import DataError
from fxopt.numerics.error_metrics import sqnr
from fxopt.passes.quant.decide import calibrated
from fxopt.passes.quant.emit import emit
from fxopt.passes.quant.encode import encode_layers
from fxopt.passes.quant.placement import place
from fxopt.passes.quant.quantize import PREPARATION
from fxopt.passes.quant.refine import round_layer
from fxopt.passes.quant.refine.adaround import Rows, learn_rounding
from fxopt.passes.quant.refine.refine import refine
from fxopt.passes.quant.refine.twins import Twins
from fxopt.testing import small_workload
from fxopt.workload import find_workload

pytestmark = pytest.mark.usefixtures("one_thread")


class Data:
    """Positive, correlated inputs, as they come out of a relu."""

    metric = "none"

    def __init__(self, *shape: int, count: int = 40) -> None:
        x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(5))
        self.x = F.relu(x + x.roll(1, 1) + 0.5)

    def batches(self, split, *, batch_size, seed=None):
        for some in self.x.split(batch_size):
            yield (some,), None


def prepared(model: nn.Module, data: Data) -> tuple[Program, Workload]:
    torch.manual_seed(0)
    program = capture(model.eval(), (data.x[:2],))
    given = Workload(name="mine", model=lambda: model, inputs=lambda: (program.args, {}), data=data)
    return program, given


def encoded(
    program: Program, given, *, bits: int = 4, policy: Policy | None = None, images: int = 40, left=frozenset()
):
    """What insert_qdq decides before it refines: placement, ranges, codes and policy."""
    policy = policy or Policy()
    placement = place(program, policy, (), left)
    ranges = calibrated(program, given, placement, policy, images=images, who="the test")
    return placement, ranges, encode_layers(program, placement.layers, ranges, policy, bits=bits), policy


def refined(program: Program, given, *parts, rounding="adaround", correct_bias="none", images: int = 40):
    placement, ranges, codes, policy = parts
    return refine(
        program, given, placement, ranges, codes, policy, rounding=rounding, correct_bias=correct_bias, images=images
    )  # fmt: skip


def emitted(program: Program, placement, ranges, codes) -> Program:
    """The program with these codes in it; the one given is used up."""
    emit(program, placement, ranges, codes)
    program.module.recompile()
    return program


# ---- learning --------------------------------------------------------------------------------------------------------


def problem(mixed: float, seed: int, activation=None):
    torch.manual_seed(seed)
    x = torch.randn(1, 200, 8) @ (torch.eye(8) * (1 - mixed) + mixed * torch.randn(8, 8)) + 0.3
    weight, bias = torch.randn(1, 4, 8), torch.randn(1, 1, 4) * 0.3
    activation = activation or (lambda y: y)
    return weight, weight.abs().amax(2, keepdim=True) / 7, Rows(x, activation(bias + x @ weight.mT), bias, activation)


def learned(weight, scales, rows, limits=(-7, 7)):
    return learn_rounding(weight, scales, limits, rows, torch.Generator().manual_seed(0))


def mean_error(rows: Rows, weight: torch.Tensor) -> torch.Tensor:
    given = rows.activation(rows.bias.double() + torch.einsum("gri,goi->gro", rows.x.double(), weight.double()))
    return (given - rows.wanted).square().mean(1)


def test_it_comes_near_the_best_of_all_roundings():
    gaps = []
    for mixed, seed, activation in itertools.product((0.3, 0.6), (0, 2), (None, torch.relu)):
        weight, scales, rows = problem(mixed, seed, activation)
        low, best = (weight / scales).floor(), torch.full((1, 4), torch.inf, dtype=torch.float64)
        for up in itertools.product((0.0, 1.0), repeat=8):
            codes = (low + torch.tensor(up)).clamp(-7, 7)
            best = torch.minimum(best, mean_error(rows, codes * scales))
        nearest = mean_error(rows, (weight / scales).round() * scales).sum() / best.sum()
        found = mean_error(rows, learned(weight, scales, rows) * scales).sum() / best.sum()
        gaps.append((float(found) - 1, float(nearest) - 1))
    found, nearest = torch.tensor(gaps).mean(0)
    assert nearest > 1, "the problems are hard: nearest rounding is twice as far as need be"
    assert found < 0.2 * nearest


@pytest.mark.parametrize("bits", [3, 8])
def test_each_code_is_the_one_below_or_above_within_the_limits(bits):
    weight, _, rows = problem(0.5, 1)
    largest = 2 ** (bits - 1) - 1
    scales = weight.abs().amax(2, keepdim=True) / largest * 0.9  # the largest ones are beyond the limits
    exact = (weight.double() / scales.double()).clamp(-largest, largest)
    codes = learned(weight, scales, rows, (-largest, largest)).double()
    assert bool((codes == codes.round()).all())
    assert bool(((codes == exact.floor()) | (codes == exact.ceil()) | ((codes - exact).abs() == 1)).all())
    assert int(codes.abs().max()) <= largest


def test_what_the_rows_do_not_tell_about_is_rounded_to_nearest():
    weight, scales, rows = problem(0.3, 3, torch.relu)
    x, bias = rows.x.clone(), rows.bias.clone()
    x[:, :, 2] = 0  # a dead channel of the input
    bias[:, :, 1] = -1e3  # and one of the output, which relu closes everywhere
    rows = Rows(x, torch.relu(bias + x @ weight.mT), bias, torch.relu)
    codes, nearest = learned(weight, scales, rows), (weight / scales).round()
    assert torch.equal(codes[:, :, 2], nearest[:, :, 2])
    assert torch.equal(codes[:, 1], nearest[:, 1])
    nothing = Rows(torch.zeros_like(x), torch.relu(bias).expand(-1, x.shape[1], -1), bias, torch.relu)
    assert torch.equal(learned(weight, scales, nothing), nearest)


# ---- layers ----------------------------------------------------------------------------------------------------------


LAYERS = {
    "convolution": (lambda: nn.Conv2d(6, 8, 3, padding=1), (6, 7, 7)),
    "without a bias": (lambda: nn.Conv2d(6, 8, 3, padding="same", bias=False), (6, 7, 7)),
    "grouped": (lambda: nn.Conv2d(8, 8, 3, stride=2, groups=2), (8, 9, 9)),
    "depthwise": (lambda: nn.Conv1d(8, 8, 5, dilation=2, groups=8), (8, 24)),
    "linear over tokens": (lambda: nn.Linear(24, 12), (10, 24)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU6])
def test_a_layer_gives_more_of_what_it_gave_also_for_data_that_was_not_seen(name, activation):
    make, shape = LAYERS[name]
    torch.manual_seed(1)
    layer, clamp = make(), activation()
    program, given = prepared(nn.Sequential(layer, clamp), Data(*shape))
    parts = encoded(program, given)
    assert not program.skips
    codes, (node,) = refined(program, given, *parts), parts[0].layers
    assert not program.skips

    def error(codes, x):
        real = codes[node].weight.real()
        with torch.no_grad():
            wanted = clamp(layer(x))
            given = clamp(torch.func.functional_call(layer, {"weight": real}, (x,)))
        return float((given - wanted).square().mean())

    calibration, fresh = given.data.x, Data(*shape, count=200).x[40:]
    for x in (calibration, fresh):
        assert error(codes, x) < 0.9 * error(parts[2], x)
    assert codes[node].weight.integers.dtype == torch.int8
    assert codes[node].weight.scales is parts[2][node].weight.scales


def test_it_learns_from_quantized_inputs_and_float_outputs_behind_the_activation(monkeypatch):
    seen = []

    def spy(weight, scales, limits, rows, generator):
        seen.append(rows)
        return learn_rounding(weight, scales, limits, rows, generator)

    monkeypatch.setattr(round_layer, "learn_rounding", spy)
    torch.manual_seed(0)
    net, data = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU6()), Data(6)
    program, given = prepared(net, data)
    parts = encoded(program, given)
    codes = refined(program, given, *parts)
    x = data.x
    for rows, (node, code), layer, clamp in zip(seen, codes.items(), (net[0], net[2]), (net[1], net[3]), strict=True):
        scale = parts[1][node.args[0]].scale
        read = torch.round(x / scale).clamp(0, 255) * scale  # after a relu the zero point is 0
        with torch.no_grad():
            wanted = clamp(layer(data.x if layer is net[0] else net[1](net[0](data.x))))
            x = net[1](F.linear(read, code.weight.real(), code.bias.real()))
        learned_from = len(data.x) * 4 // 5
        torch.testing.assert_close(rows.x[0], read[:learned_from], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(rows.wanted[0], wanted[:learned_from])


class Net(nn.Module):
    """Convolutions, a sum, a concatenation, pools, a layer that is kept in float, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1, bias=i > 0) for i in range(3))
        self.kept, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = F.relu(self.a(x))
        z = F.relu(self.b(y) + y)
        z = torch.cat([F.max_pool2d(z, 2), F.avg_pool2d(self.c(z), 2)], 1)
        return self.head(F.gelu(self.kept(z.mean((2, 3)))))


def test_the_quantized_twin_gives_bit_for_bit_what_the_graph_will():
    program, given = prepared(Net(), Data(4, 8, 8))
    program = Pipeline.of(*PREPARATION).run(program, workload=given, watchers=()).program
    (_, kept, *_) = [n.name for n in program.graph.nodes if "linear" in n.name] + [""]
    placement, ranges, codes, _ = encoded(program, given, left={kept})
    x = Data(4, 8, 8).x[:5]
    twins = Twins(program, placement, ranges, codes, [[x]])
    last = program.outputs()[0]
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op != "output":
                twins.run(node)
                twins.free(node)
    ((wanted, given),) = twins.values(last)
    assert torch.equal(wanted, program(x))
    assert torch.equal(given, emitted(program, placement, ranges, codes)(x))


def test_a_channel_whose_neighbours_would_overflow_keeps_its_nearest_codes(monkeypatch):
    """Of a weight that is a code already the next one is the code above: two such may end one beyond the bound."""
    monkeypatch.setattr(
        round_layer, "learn_rounding", lambda weight, scales, *_: ((weight / scales).floor() + 1).clamp(max=127)
    )
    monkeypatch.setattr(Rows, "error", lambda rows, weight: -weight.sum())
    net = nn.Linear(4, 2, bias=False)
    net.weight.data = torch.tensor([[64.0, 63.0, 0.5, 2.0], [64.0, 0.5, 63.0, 2.5]]) / 128
    program, given = prepared(net, Data(4))
    parts = encoded(program, given, bits=8, policy=Policy(pairs_in_16_bits=True))
    (node,) = parts[0].layers
    assert parts[2][node].weight.integers[0].tolist() == [64, 63, 0, 2]
    codes = refined(program, given, *parts)[node].weight.integers
    assert codes[0].tolist() == [64, 63, 0, 2], "65 + 64 would be 129"
    assert codes[1].tolist() == (net.weight[1] / parts[2][node].weight.scales[1]).floor().add(1).clamp(max=127).tolist()


def test_codes_that_are_worse_on_rows_left_out_are_dropped_with_the_reason(monkeypatch):
    monkeypatch.setattr(round_layer, "learn_rounding", lambda weight, scales, *_: (weight / scales).floor())
    program, given = prepared(nn.Linear(6, 4), Data(6))
    parts = encoded(program, given)
    codes, (node,) = refined(program, given, *parts), parts[0].layers
    assert torch.equal(codes[node].weight.integers, parts[2][node].weight.integers)
    assert [skip.reason for skip in program.skips] == ["rounded to nearest: on held-out examples it would be no better"]


def test_a_shared_weight_and_too_little_data_keep_the_nearest_codes_with_the_reason():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(4, 4, 1, bias=False)

        def forward(self, x):
            return self.a(F.relu(self.a(x)))

    data = Data(4, 5, 5)
    program, given = prepared(Twice(), data)
    placement, ranges, codes, policy = encoded(program, given)
    shared = codes[placement.layers[0]]
    codes = dict.fromkeys(placement.layers, shared)
    assert refined(program, given, placement, ranges, codes, policy) == codes
    assert [skip.reason for skip in program.skips] == ["rounded to nearest: other layers share its weight"] * 2
    program, given = prepared(nn.Linear(6, 4), Data(6, count=8))
    refined(program, given, *encoded(program, given))
    assert [skip.reason for skip in program.skips][-1].startswith("rounded to nearest: there are only 8 rows of data")


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_the_pass_is_reproducible_and_changes_codes_alone():
    program, given = prepared(Net(), Data(4, 8, 8))
    where = {"workload": given, "watchers": ()}
    runs = [
        Pipeline.parse("quantize(rounding='adaround', correct_bias='none')").run(program, **where).program
        for _ in range(2)
    ]
    plain = Pipeline.parse("quantize(correct_bias='none')").run(program, **where).program
    assert runs[0].fingerprint() == runs[1].fingerprint()
    assert runs[0].text() == plain.text()
    old, new = plain.tensors(), runs[0].tensors()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved
    for name in moved:
        assert name.endswith("_int8")
        assert int((old[name].int() - new[name].int()).abs().max()) == 1


def test_four_bits_gain_decibels_on_the_digits():
    workload = find_workload("digits")
    program = Pipeline.of(*PREPARATION).run(workload.capture(), workload=workload, watchers=()).program
    layers = [n.name for n in place(program, Policy(), ()).layers]
    ((images,), _) = next(workload.data.batches("test", batch_size=200))
    wanted, found = program(images), {}
    for rounding in ("nearest", "adaround"):
        work = program.copy()
        placement, ranges, codes, policy = encoded(
            work, workload, left=set(layers[4:]), images=32
        )  # the rest would take long
        codes = refined(work, workload, placement, ranges, codes, policy, rounding=rounding, images=32)
        found[rounding] = sqnr([wanted], [emitted(work, placement, ranges, codes)(images)])
    assert found["adaround"] > found["nearest"] + 3


def test_without_data_the_option_is_named():
    program, given = prepared(nn.Linear(6, 4), Data(6))
    parts = encoded(program, given)
    with pytest.raises(DataError, match=r"insert_qdq\(rounding='adaround'\) needs data"):
        refined(program, None, *parts)


def test_what_is_not_finite_is_named_with_its_line():
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)
            self.fc.weight.data.fill_(1e38)

        def forward(self, x):
            return self.fc(x * 100)

    program = capture(Large(), (torch.rand(12, 6),))
    for option in ("rounding='adaround'", "correct_bias='empirical'"):
        with pytest.raises(DataError, match=r"met NaN or infinity\n.*aten\.linear.*test_adaround\.py:\d+") as caught:
            Pipeline.parse(f"insert_qdq({option})").run(program, workload=small_workload(program), watchers=())
        assert option in str(caught.value)
