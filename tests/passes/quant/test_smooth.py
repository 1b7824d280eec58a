"""smooth_activations: its factors against numpy, its numbers against torch's module, and what it leaves and why."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, capture
from fxopt.errors import DataError, OptionError, PassError
from fxopt.ir.parser import parse_program
from fxopt.numerics.error_metrics import sqnr
from fxopt.passes.quant.smooth_activations import smooth_activations
from fxopt.target.detect import host
from fxopt.testing import small_workload
from fxopt.workload import find_workload

WIDTH = 8


def shaken(module: nn.Module) -> nn.Module:
    """In evaluation mode, drawn from a fixed seed, norms with scales of very different sizes, of both signs."""
    torch.manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            for parameter in part.parameters(recurse=False):
                parameter.normal_()
                if isinstance(part, (nn.LayerNorm, nn.RMSNorm, nn.BatchNorm2d, nn.GroupNorm)):
                    parameter.mul_(10 ** torch.empty_like(parameter).uniform_(-1, 1))
    return module.eval()


def smooth(module: nn.Module, *inputs: torch.Tensor, passes: str = "smooth_activations") -> tuple:
    """The program before, and after the pass alone; verification is left out, the tests stand in for it."""
    program = capture(module, inputs)
    outcome = Pipeline.parse(passes).run(program, workload=small_workload(program), watchers=())
    return program, outcome.program, outcome.steps[-1].skips


def smoothed(before, after) -> list[str]:
    """The linears that read other columns than before, by the name of their module."""
    old, new = before.tensors(), after.tensors()
    names = [str(n.args[1].target) for n in before.find("aten.linear") if n.args[1].op == "get_attr"]

    def columns(tensor: torch.Tensor) -> torch.Tensor:  # a factor on a row cancels out
        return tensor / tensor.norm(dim=1, keepdim=True)

    changed = (n for n in dict.fromkeys(names) if not torch.allclose(columns(old[n]), columns(new[n]), rtol=1e-3))
    return [name.removesuffix(".weight") for name in changed]


def assert_exact(module: nn.Module, *inputs: torch.Tensor) -> list[str]:
    """Nothing but weights changes, new inputs give what the module gives, a second run does nothing; what is smoothed."""
    module = shaken(module).double()
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    before, after, _ = smooth(module, *inputs)
    assert after.text() == before.text()
    other = tuple(x.flip(0) + (0.5 if x.is_floating_point() else 0) for x in inputs)
    with torch.no_grad():
        want = module(*other)
    torch.testing.assert_close(after(*other), want, rtol=1e-10, atol=1e-10 * float(want.abs().max()))
    again = Pipeline.of(smooth_activations()).run(after, workload=small_workload(before), watchers=())
    assert not again.steps[0].changed
    return smoothed(before, after)


# ---- the factors ---------------------------------------------------------------------------------------------------


class _Shared(nn.Module):
    """One norm that two linears read."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.a, self.b = nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 3)

    def forward(self, x):
        y = self.norm(x)
        return torch.cat([self.a(y), self.b(y)], -1)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_factors_are_those_of_equation_4_over_all_images_and_all_readers(alpha):
    module = shaken(_Shared())
    before, after, skips = smooth(module, torch.randn(2, 3, WIDTH), passes=f"smooth_activations(alpha={alpha})")
    old, new = ({k: v.detach().double().numpy() for k, v in p.tensors().items()} for p in (before, after))
    x = np.concatenate([a.double().numpy() for (a,), _ in small_workload(before).data.batches("train", batch_size=2)])
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    peak = np.abs(normed * old["norm.weight"] + old["norm.bias"]).reshape(-1, WIDTH).max(0)
    heaviest = np.abs(np.concatenate([old["a.weight"], old["b.weight"]])).max(0)
    s = peak**alpha / heaviest ** (1 - alpha)
    for name in ("a.weight", "b.weight"):
        np.testing.assert_allclose(new[name], old[name] * s, rtol=1e-5)
    for name in ("norm.weight", "norm.bias"):
        np.testing.assert_allclose(new[name], old[name] / s, rtol=1e-5)
    np.testing.assert_array_equal(new["a.bias"], old["a.bias"])
    assert not skips


def test_dead_channels_zero_columns_and_extreme_factors_are_left():
    module = _Shared()
    with torch.no_grad():
        module.norm.weight[0] = module.norm.bias[0] = 0  # never active
        module.a.weight[:, 1] = module.b.weight[:, 1] = 0  # never read
        module.norm.weight[2], module.norm.bias[2] = 1e-12, 0
        module.a.weight[:, 2] = module.b.weight[:, 2] = 1.0
    before, after, skips = smooth(module.eval(), torch.randn(2, 3, WIDTH))
    for name, dim in (("norm.weight", 0), ("a.weight", 1), ("b.weight", 1)):
        old, new = (p.tensors()[name].narrow(dim, 0, 3) for p in (before, after))
        assert torch.equal(old, new), name
    assert smoothed(before, after) == ["a", "b"]
    again = Pipeline.of(smooth_activations()).run(after, workload=small_workload(before), watchers=())
    assert not again.steps[0].changed
    reasons = {skip.reason for skip in skips}
    assert reasons == {
        "2 of its 8 input channels: what it reads, or its weight, is zero there",
        "1 of its 8 input channels: its factor would be beyond 1e-05 … 100000",
    }


# ---- where a factor goes -------------------------------------------------------------------------------------------


class _Net(nn.Module):
    """Parts by name, and what to compute with them."""

    def __init__(self, forward, **parts) -> None:
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self._forward(self, *inputs)


def _linears(**sizes: tuple[int, int]) -> dict[str, nn.Module]:
    return {name: nn.Linear(*size) for name, size in sizes.items()}


def _heads(x: torch.Tensor, count: int) -> torch.Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _packed(net, x):
    q, k, v = net.qkv(net.norm(x)).view(*x.shape[:2], 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4).unbind(0)
    return net.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _chunked(net, x):
    q, k, v = (_heads(y, 2) for y in net.qkv(net.norm(x)).chunk(3, -1))
    weights = (q @ k.transpose(-1, -2) / 2).softmax(-1)
    return net.out((weights @ v).transpose(1, 2).reshape(x.shape))


def _grouped(net, x):
    """Four heads of queries, two of keys and values, which are repeated or left to the op."""
    y = net.norm(x)
    q, k, v = _heads(net.q(y), 4), _heads(net.k(y), 2), _heads(net.v(y), 2)
    one = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).reshape(q.shape) for t in (k, v))
    return net.out((F.scaled_dot_product_attention(q, k, v) + one).transpose(1, 2).flatten(2))


def _rms(net, x):
    y = net.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
    return net.down(F.silu(net.gate(y)) * net.up(y))


def _written_swish(net, x):
    g = net.gate(net.norm(x))
    return net.down((g * torch.sigmoid(g)) * net.up(net.norm(x)))


def _window(net, x):
    y = F.pad(net.norm(x), (0, 0, 0, 1)).roll(1, 1).view(-1, 2, WIDTH)
    return net.a(y).view(x.shape[0], -1, 4)[:, :5]


def _two_views(net, x):
    y = net.norm(x)
    return net.a(y.transpose(0, 1)).transpose(0, 1) + net.b(y[:, :1]) * net.b(y[:, 1:2])


def _pooled(net, x):
    y = F.leaky_relu(net.norm(net.conv(x)), 0.1)
    return net.a(F.max_pool2d(y, 2).flatten(1)) + net.b(F.adaptive_avg_pool2d(y, 1).flatten(1)) + net.c(y.mean((2, 3)))


def _mixed(net, x):
    """Half of what the linear reads can be divided."""
    return net.last(torch.cat([net.a(x), F.gelu(net.b(x))], -1))


def _attention(**more):
    return {"norm": nn.LayerNorm(WIDTH), **_linears(out=(WIDTH, WIDTH)), **more}


SPATIAL = {"conv": nn.Conv2d(4, 6, 3, groups=2), "norm": nn.BatchNorm2d(6)}
PASSES = {
    "packed query, key and value": (_packed, _attention(**_linears(qkv=(8, 24))), (2, 5, 8), "qkv out"),
    "attention written out": (_chunked, _attention(**_linears(qkv=(8, 24))), (2, 5, 8), "qkv out"),
    "shared value heads": (_grouped, _attention(**_linears(q=(8, 8), k=(8, 4), v=(8, 4))), (2, 5, 8), "q k v out"),
    "rms norm and gate": (
        _rms,
        {"weight": nn.Parameter(torch.linspace(0.01, 5, 8)), **_linears(gate=(8, 6), up=(8, 6), down=(6, 4))},
        (2, 5, 8),
        "gate up down",
    ),
    "swish written out": (
        _written_swish,
        {"norm": nn.RMSNorm(8), **_linears(gate=(8, 6), up=(8, 6), down=(6, 4))},
        (2, 5, 8),
        "gate up down",
    ),
    "padded windows": (_window, {"norm": nn.LayerNorm(8), **_linears(a=(8, 4))}, (2, 5, 8), "a"),
    "two views": (_two_views, {"norm": nn.LayerNorm(8), **_linears(a=(8, 4), b=(8, 4))}, (2, 5, 8), "a b"),
    "pooling": (_pooled, {**SPATIAL, **_linears(a=(24, 5), b=(6, 5), c=(6, 5))}, (2, 4, 6, 6), "a b c"),
    "group norm": (
        lambda net, x: net.a(net.norm(x).transpose(1, 2)),
        {"norm": nn.GroupNorm(2, 8), **_linears(a=(8, 4))},
        (2, 8, 3),
        "a",
    ),
    "half of it": (_mixed, _linears(a=(8, 4), b=(8, 4), last=(8, 3)), (2, 8), "last"),
    "relu and dropout": (
        lambda net, x: net.b(F.dropout(torch.relu(-net.a(x) * 2.0), 0.3, training=False).neg().abs()),
        _linears(a=(8, 6), b=(6, 4)),
        (2, 8),
        "b",
    ),
    "a sum of two linears": (
        lambda net, x: net.c(net.a(x) - net.b(x) + net.shift),
        {"shift": nn.Parameter(torch.randn(6)), **_linears(a=(8, 6), b=(8, 6), c=(6, 4))},
        (2, 8),
        "c",
    ),
    "the same weight twice": (
        lambda net, x: net.b(net.norm(x)) + net.b(net.norm2(x)),
        {"norm": nn.LayerNorm(8), "norm2": nn.LayerNorm(8), **_linears(b=(8, 4))},
        (2, 8),
        "b",
    ),
}


@pytest.mark.parametrize("case", PASSES)
def test_factors_go_into_weights_and_the_numbers_stay(case):
    forward, parts, shape, want = PASSES[case]
    assert assert_exact(_Net(forward, **parts), torch.randn(shape)) == want.split()


def test_a_packed_projection_gives_its_value_part_alone():
    before, after, _ = smooth(shaken(_Net(_packed, **_attention(**_linears(qkv=(8, 24))))), torch.randn(2, 5, 8))
    ratio = after.tensors()["qkv.bias"] / before.tensors()["qkv.bias"]
    assert torch.equal(ratio[:16], torch.ones(16))
    assert bool((ratio[16:] != 1).all())


@st.composite
def stacks(draw):
    """A stack of norms, linears and what may stand between them, with residual sums over some of it."""
    kinds = st.sampled_from(["norm", "rms", "linear", "linear", "relu", "gelu", "neg", "roll", "gate", "residual"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 3)), min_size=2, max_size=9)), draw(st.integers(0, 2**16))


class _Stack(nn.Module):
    def __init__(self, kinds) -> None:
        super().__init__()
        self.kinds = kinds
        made = {"norm": nn.LayerNorm, "rms": nn.RMSNorm, "linear": lambda w: nn.Linear(w, w)}
        made["gate"] = made["linear"]
        self.parts = nn.ModuleList([made.get(kind, lambda w: nn.Identity())(4) for kind, _ in kinds])

    def forward(self, x):
        seen = [x]
        for (kind, back), part in zip(self.kinds, self.parts, strict=True):
            x, old = seen[-1], seen[-1 - min(back, len(seen) - 1)]
            seen.append(
                {
                    "relu": lambda x, _: torch.relu(x),
                    "gelu": lambda x, _: F.gelu(x),
                    "neg": lambda x, _: -x,
                    "roll": lambda x, _: x.roll(1, -1),
                    "gate": lambda x, old: part(old) * x,  # noqa: B023
                    "residual": lambda x, old: x + old,
                }.get(kind, lambda x, _: part(x))(x, old)  # noqa: B023
            )
        return seen[-1]


@settings(max_examples=15, deadline=None)
@given(stacks())
def test_random_stacks_keep_their_numbers_in_float64(drawn):
    kinds, seed = drawn
    torch.manual_seed(seed)
    assert_exact(_Stack(kinds), torch.randn(3, 4))


# ---- what is left --------------------------------------------------------------------------------------------------


NORM = {"norm": nn.LayerNorm(8), **_linears(a=(8, 8))}
LEFT = {
    "comes from an input of the model": lambda net, x: net.a(x),
    "comes from aten.gelu, which factors cannot pass": lambda net, x: net.a(F.gelu(net.norm(x))),
    "comes from aten.layer_norm, which has no weight here": lambda net, x: net.a(F.layer_norm(x, [8])),
    "is also an output of the model": lambda net, x: (lambda y: (y, net.a(y)))(net.norm(x)),
    "is also read by aten.gelu, which needs it as it is": lambda net, x: (lambda y: net.a(y) + F.gelu(y))(net.norm(x)),
    # by way of the sum, which could be divided itself
    "is also read by aten.sigmoid, which": lambda net, x: (lambda y: torch.sigmoid(y + net.a(y)))(net.norm(x)),
    "its weight is computed, not stored": lambda net, x: F.linear(net.norm(x), net.a.weight * 2),
    "comes from aten.add.Tensor, which factors cannot pass": lambda net, x: net.a(net.norm(x) + 1),
    "is also read by aten.mul.Tensor, which": lambda net, x: net.a((lambda y: y * y)(net.norm(x))),
    "comes from aten.topk, which factors cannot pass": lambda net, x: net.a(net.norm(x).topk(8)[0]),
    "its weight is also read by aten.sum": lambda net, x: net.a(net.norm(x)) + net.a.weight.sum(),
}


@pytest.mark.parametrize("reason", LEFT)
def test_a_linear_is_left_with_the_reason(reason):
    before, after, skips = smooth(shaken(_Net(LEFT[reason], **NORM)), torch.randn(2, 8))
    assert after.fingerprint() == before.fingerprint()
    assert any(reason in skip.reason for skip in skips), [skip.reason for skip in skips]
    assert all("test_smooth.py:" in skip.source for skip in skips)


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.b(torch.relu(net.a(torch.relu(net.a(net.norm(x)))))),
        lambda net, x: (lambda y: net.b(y + net.a(y)))(net.norm(x)),
    ],
)
def test_factors_that_come_back_to_their_own_rows_are_left(forward):
    net = _Net(forward, norm=nn.LayerNorm(8), **_linears(a=(8, 8), b=(8, 4)))
    _, _, skips = smooth(shaken(net), torch.randn(2, 8))
    assert assert_exact(net, torch.randn(2, 8)) == []
    assert {skip.reason for skip in skips} == {"the same factors come again after a linear that reads it"}


TEXT = """
%x : f32[2,8]
%g = param "norm.weight" : f32[8]
%n = aten.layer_norm(%x, [8], %g)
{between}
%w = param "fc.weight" : f32[4,8]
%z = aten.linear(%y, %w)
return %z
"""


@pytest.mark.parametrize(
    "between",
    [
        "%y = aten.dropout(%n, 0.5, True)",  # draws random numbers
        "%y = aten.pad(%n, [0, 0, 0, 1], 'constant', 2.0)",
        "%y = aten.clone(%n); %v = aten.slice.Tensor(%y, 0, 0, 1); %f = aten.fill_.Scalar(%v, 2.0)",
    ],
)
def test_what_would_change_the_numbers_is_left(between):
    program = parse_program(TEXT.format(between=between))
    outcome = Pipeline.of(smooth_activations()).run(program, workload=small_workload(program), watchers=())
    assert not outcome.steps[0].changed
    assert outcome.steps[0].skips


def test_a_head_that_shares_its_weight_with_the_embedding_is_left():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm, self.head = nn.Embedding(9, 8), nn.LayerNorm(8), nn.Linear(8, 9)
            self.head.weight = self.table.weight

        def forward(self, tokens):
            return self.head(self.norm(self.table(tokens)))

    before, after, (skip,) = smooth(shaken(Tied()), torch.arange(6).reshape(2, 3))
    assert skip.reason == "its weight is also read by aten.embedding"
    assert after.fingerprint() == before.fingerprint()


# ---- real models, and what it is for -------------------------------------------------------------------------------


class _Drawn:
    """Random tokens or images for a model that takes keywords."""

    metric = "none"

    def __init__(self, example: torch.Tensor, count: int = 2) -> None:
        self.example, self.count = example, count

    def batches(self, split, *, batch_size, seed=None):
        generator = torch.Generator().manual_seed(1)
        shape = (4, *self.example.shape[1:])
        for _ in range(self.count):
            if self.example.is_floating_point():
                yield (torch.randn(shape, generator=generator),), None
            else:
                yield (torch.randint(8, 256, shape, generator=generator),), None


@pytest.mark.parametrize(
    ("name", "linears", "left"),
    [
        # post-norm: all that a norm gives is read by the residual sum too
        ("bert", 13, {"read by aten.layer_norm": 8, "comes from aten.gelu": 2, "an output of the model": 1}),
        ("vit", 13, {"comes from aten.gelu": 2, "an output of the model": 1}),
        ("llama", 14, {}),
    ],
)
def test_linears_of_transformers(name, linears, left):
    workload = find_workload(f"transformers:{name}")
    (example,) = workload.inputs()[1].values()
    workload = dataclasses.replace(workload, data=_Drawn(example))
    program = workload.capture()
    program = Pipeline.parse("fold_constants").run(program, watchers=()).program
    last = Pipeline.of(smooth_activations()).run(program, workload=workload)  # proved in float64
    (step,) = last.steps
    assert step.findings.error < 1e-12
    assert len(list(program.find("aten.linear"))) == linears
    found = Counter(next((text for text in left if text in skip.reason), skip.reason) for skip in step.skips)
    assert found == left
    assert len(smoothed(program, last.program)) == linears - sum(left.values())
    again = Pipeline.of(smooth_activations()).run(last.program, workload=workload, watchers=())
    assert not again.steps[0].changed


class _Block(nn.Module):
    """A pre-norm transformer of one block; ``spread`` makes a few channels of its norms large, with no other effect."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.norm2 = nn.Linear(16, 32), nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        with torch.no_grad():
            for norm, linear in ((self.norm, self.qkv), (self.norm2, self.up)):
                norm.weight[:3] *= spread
                norm.bias[:3] *= spread
                linear.weight[:, :3] /= spread

    def forward(self, x):
        x = self.first(x)
        q, k, v = (_heads(y, 4) for y in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def _quantized(spread: float, passes: str) -> float:
    """SQNR in dB of the quantized model against its float self, on images that calibration did not see."""
    program = capture(_Block(spread).eval(), (torch.randn(8, 6, 16),))
    workload = small_workload(program)
    after = Pipeline.parse(passes).run(program, workload=workload, target=host(), watchers=()).program
    pairs = [(program(*args), after(*args)) for args, _ in workload.data.batches("test", batch_size=8)]
    want, got = (torch.cat(side) for side in zip(*pairs, strict=True))
    return sqnr([want], [got])


def test_channels_that_are_50_times_the_others_no_longer_spoil_int8():
    fair = _quantized(1.0, "quantize")
    spoilt = _quantized(50.0, "quantize")
    saved = _quantized(50.0, "fold_constants, smooth_activations, quantize")
    assert spoilt < fair - 10, "else there is nothing to save"
    assert saved > fair - 2


# ---- bad inputs ----------------------------------------------------------------------------------------------------


@functools.cache
def _program():
    return capture(shaken(_Shared()), (torch.randn(2, 3, WIDTH),))


def test_without_a_workload_or_data_it_says_so():
    with pytest.raises(DataError, match="smooth_activations needs calibration data: run the pipeline with workload"):
        Pipeline.of(smooth_activations()).run(_program())
    bare = dataclasses.replace(small_workload(_program()), data=None)
    with pytest.raises(DataError, match="smooth_activations needs data, and the workload 'small' has none"):
        Pipeline.of(smooth_activations()).run(_program(), workload=bare)
    empty = dataclasses.replace(bare, data=_Drawn(torch.randn(2, 3, WIDTH), count=0))
    with pytest.raises(DataError, match="gave no calibration image"):
        Pipeline.of(smooth_activations()).run(_program(), workload=empty)
    wrong = dataclasses.replace(bare, data=_Drawn(torch.randn(2, 3, WIDTH + 1)))
    with pytest.raises(DataError, match=r"calibration gives float32\[4, 3, 9\] for input 'x'"):
        Pipeline.of(smooth_activations()).run(_program(), workload=wrong)


def test_without_a_place_to_smooth_it_needs_no_data():
    program = capture(nn.Linear(4, 4), (torch.randn(2, 4),))
    (step,) = Pipeline.of(smooth_activations()).run(program).steps
    assert [skip.reason for skip in step.skips] == ["what it reads comes from an input of the model"]


def test_activations_and_weights_that_are_not_finite_are_shown():
    net = shaken(_Net(lambda net, x: net.a(net.norm(x.exp().exp().exp())), **NORM))
    program = capture(net, (torch.randn(2, 8),))
    with pytest.raises(DataError, match=r"calibration met NaN or infinity\n.*aten.layer_norm.*test_smooth.py:"):
        Pipeline.of(smooth_activations()).run(program, workload=small_workload(program), watchers=())
    module = shaken(_Shared())
    with torch.no_grad():
        module.a.weight[0, 0] = torch.nan
    with pytest.raises(PassError, match=r"the weight holds NaN or infinity\n.*a.weight"):
        smooth(module, torch.randn(2, 3, WIDTH))


def test_a_weight_that_would_overflow_leaves_everything_as_it_was():
    module = shaken(_Shared()).half()
    with torch.no_grad():
        module.norm.weight.fill_(1000.0)
        module.a.weight.fill_(1.0)
        module.a.weight[0, 0] = 60000.0
    x = torch.randn(2, 3, WIDTH).half()
    before, after, skips = smooth(module, x, passes="smooth_activations(alpha=1.0)")
    assert after.fingerprint() == before.fingerprint()
    assert "smoothed, it would be beyond the range of torch.float16; nothing is changed" in {s.reason for s in skips}


@pytest.mark.parametrize("options", ["alpha=-0.1", "alpha=1.1", "images=0"])
def test_options_outside_their_range_are_refused(options):
    with pytest.raises(OptionError, match=options.split("=")[0]):
        Pipeline.parse(f"smooth_activations({options})")
