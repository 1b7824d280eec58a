"""GPTQ: against the formula it comes from, the best codes there are, and rounding to nearest."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Workload, capture
from fxopt.errors import DataError
from fxopt.passes.quant.weight_only.blocks import Grid, nearest
from fxopt.passes.quant.weight_only.gptq import gptq
from fxopt.testing import small_workload
from fxopt.workload import find_workload

pytestmark = pytest.mark.usefixtures("one_thread")


def _drawn(seed: int, outputs: int, inputs: int, examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [out, in] and inputs [in, n] that go together, as those of a trained net do."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64) + 1
    x = mixed @ torch.randn(inputs, examples, generator=generator, dtype=torch.float64)
    return torch.randn(outputs, inputs, generator=generator), x


def _lost(rows: torch.Tensor, real: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return ((rows.double() - real.double()) @ x).square().sum(1)


# ---- the method ----------------------------------------------------------------------------------------------------


def _surgeon(row: torch.Tensor, products: torch.Tensor, grid: Grid) -> tuple[list[float], list[float]]:
    """Codes and scales by optimal brain surgeon, Frantar et al. 2023, eq. 2: the inverse over what is left, at each step."""
    hessian = 2 * products
    hessian = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(row), dtype=torch.float64)
    left, codes, scales = row.double().clone(), [0.0] * len(row), []
    for i in range(len(row)):
        if i % grid.block == 0:
            block = left[i : i + grid.block].tolist()
            most = max(block, key=abs)
            other = max((abs(v) for v in block if v * most < 0), default=0.0)
            scales.append(math.copysign(max(abs(most) / -grid.low, other / grid.high), -most))
        scale = float(torch.tensor(scales[-1]))
        codes[i] = max(grid.low, min(grid.high, round(float(left[i]) / scale)))
        inverse = torch.linalg.inv(hessian[i:, i:])
        left[i:] -= (left[i] - codes[i] * scale) / inverse[0, 0] * inverse[:, 0]
    return codes, scales


@settings(max_examples=15)
@given(st.integers(0, 999), st.sampled_from([4, 8]), st.sampled_from([0, 16]))
def test_each_weight_is_rounded_as_the_optimal_brain_surgeon_would(seed, bits, block):
    rows, x = _drawn(seed, 3, 37, 200)
    grid, products = Grid.of(bits, block, 37), x @ x.T
    found, plain = gptq(rows, products, grid), nearest(rows, grid)
    kept = 0
    for i, row in enumerate(rows):
        codes, scales = _surgeon(row, products, grid)
        if torch.equal(found.integers[i], plain.integers[i]) and torch.equal(found.scales[i], plain.scales[i]):
            continue  # this row was better off without
        assert found.integers[i, :37].tolist() == codes
        assert found.scales[i].tolist() == pytest.approx(scales, rel=1e-6)
        kept += 1
    assert kept >= 2


def test_columns_of_many_are_as_one_after_the_other():
    """A scale for a whole row: 300 inputs are taken in parts of 128, which share it."""
    rows, x = _drawn(1, 2, 300, 2000)
    grid, products = Grid.of(4, 0, 300), x @ x.T
    found = gptq(rows, products, grid)
    assert found.integers[0].tolist() == _surgeon(rows[0], products, grid)[0]


@given(st.integers(0, 999), st.sampled_from([0, 16, 32]), st.integers(2, 70))
def test_where_inputs_do_not_hang_together_the_nearest_code_is_best(seed, block, inputs):
    rows, _ = _drawn(seed, 4, inputs, 1)
    grid = Grid.of(4, block, inputs)
    found, plain = gptq(rows, torch.eye(inputs, dtype=torch.float64), grid), nearest(rows, grid)
    assert torch.equal(found.integers, plain.integers)
    assert torch.equal(found.scales, plain.scales)


def test_with_few_codes_it_comes_near_the_best_of_all():
    """Four weights of four codes: all 256 are tried, at the scale that rounding to nearest has."""
    grid = Grid(-2, 1, 4)
    every = torch.tensor(list(itertools.product(range(-2, 2), repeat=4)), dtype=torch.float64)
    totals = torch.zeros(3, dtype=torch.float64)
    for seed in range(200):
        row, x = _drawn(seed, 1, 4, 50)
        x = x / x.square().sum().sqrt()
        plain, found = nearest(row, grid), gptq(row, x @ x.T, grid)
        assert torch.equal(plain.scales, found.scales)
        best = _lost(row, every * plain.scales.double(), x).min()
        got = _lost(row, found.real(), x)[0]
        assert best <= got * (1 + 1e-9)
        totals += torch.stack([best, got, _lost(row, plain.real(), x)[0]])
    best, got, plain = totals
    assert got <= 1.5 * best, "a greedy method from left to right does not find everything"
    assert plain >= 1.5 * got


@given(st.integers(0, 999), st.sampled_from([0, 16, 32]), st.sampled_from([4, 8]), st.integers(1, 100))
def test_no_output_is_further_off_than_with_the_nearest_codes(seed, block, bits, examples):
    rows, x = _drawn(seed, 6, 48, examples)
    grid = Grid.of(bits, block, 48)
    found = _lost(rows, gptq(rows, x @ x.T, grid).real(), x)
    plain = _lost(rows, nearest(rows, grid).real(), x)
    assert bool((found <= plain * (1 + 1e-6)).all())


def test_inputs_that_are_always_zero_are_rounded_to_nearest():
    rows, x = _drawn(0, 5, 32, 100)
    x[[3, 17]] = 0
    grid = Grid.of(4, 0, 32)
    found, plain = gptq(rows, x @ x.T, grid), nearest(rows, grid)
    assert torch.equal(found.integers[:, [3, 17]], plain.integers[:, [3, 17]])
    assert not torch.equal(found.integers, plain.integers)
    nothing = gptq(rows, torch.zeros(32, 32, dtype=torch.float64), grid)
    assert torch.equal(nothing.integers, plain.integers)


# ---- the pass ------------------------------------------------------------------------------------------------------


class _Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(48, 40), nn.Linear(40, 24, bias=False)
        self.third = nn.Parameter(torch.randn(24, 16) / 5)

    def forward(self, x):
        return F.gelu(self.second(F.gelu(self.first(x)))) @ self.third


class _Mixed:
    """Examples whose elements hang together."""

    metric = "none"

    def __init__(self, *shape: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(512, *shape, generator=generator) @ torch.randn(shape[-1], shape[-1], generator=generator)

    def batches(self, split, *, batch_size, seed=None):
        for part in self.x.split(batch_size):
            yield (part,), None


def _workload(net: nn.Module, data: object) -> Workload:
    return Workload(name="mixed", model=lambda: net, inputs=lambda: ((data.x[:2],), {}), data=data)


@pytest.mark.parametrize("shape", [(48,), (3, 48)])
def test_every_layer_of_a_net_is_rounded_for_what_it_reads_behind_rounded_layers(shape):
    torch.manual_seed(0)
    net, data = _Chain().eval(), _Mixed(*shape)
    program = capture(net, (data.x[:2],))
    where = {"workload": _workload(net, data)}
    quantized = Pipeline.parse("quantize_weights(rounding='gptq', images=256)").run(program, **where).program
    parts = list(data.x[:256].split(32))
    weights = {"first": net.first.weight, "second": net.second.weight, "third": net.third.T}
    tensors = quantized.tensors()
    for name, weight in weights.items():
        weight = weight.detach()
        grid = Grid.of(4, 32, weight.shape[1])
        products = sum((p.flatten(0, -2).T @ p.flatten(0, -2)).double() for p in parts)
        want = gptq(weight, products, grid)
        prefix = name if name == "third" else f"{name}.weight"
        same = (tensors[f"{prefix}_int4"] == want.integers).double().mean()
        assert same > 0.99, "sums in another order may round another way"
        x = torch.cat(parts).flatten(0, -2).double().T
        real = want.real() if same == 1 else _real(tensors, prefix, grid, weight.shape[1])
        ratio = _lost(weight, real, x).sum() / _lost(weight, nearest(weight, grid).real(), x).sum()
        assert ratio < 0.8, name
        bias = net.first.bias.detach() if name == "first" else None
        parts = [F.gelu(F.linear(p, real, bias)) for p in parts]


def _real(tensors, prefix, grid, inputs):
    scales = tensors[f"{prefix}_scale"].repeat_interleave(grid.block, 1)
    return (tensors[f"{prefix}_int4"] * scales)[:, :inputs]


def test_a_net_whose_weights_are_rounded_together_follows_the_original_better():
    torch.manual_seed(0)
    net, data = _Chain().eval(), _Mixed(48)
    program = capture(net, (data.x[:2],))
    held_out = data.x[256:]
    lost = {}
    for how in ("nearest", "gptq"):
        passes = Pipeline.parse(f"quantize_weights(rounding={how!r}, images=256)")
        made = passes.run(program, workload=_workload(net, data)).program
        lost[how] = float((made(held_out) - program(held_out)).square().mean())
    assert lost["gptq"] < 0.8 * lost["nearest"]


def test_a_weight_that_is_read_twice_is_rounded_once():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(48, 48)

        def forward(self, x):
            return self.fc(F.relu(self.fc(x)))

    net, data = Twice().eval(), _Mixed(48)
    program = capture(net, (data.x[:2],))
    passes = Pipeline.parse("quantize_weights(rounding='gptq')")
    made = passes.run(program, workload=_workload(net, data)).program
    assert [t.dtype for t in made.tensors().values()].count(torch.int8) == 1


def test_without_usable_data_it_says_so():
    class Log(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(48, 4)

        def forward(self, x):
            return self.fc(torch.log(x))

    passes = Pipeline.parse("quantize_weights(rounding='gptq')")
    program = capture(Log(), (torch.rand(2, 48) + 1,))
    with pytest.raises(DataError, match="quantize_weights needs data"):
        passes.run(program)
    with pytest.raises(DataError, match=r"NaN or infinity(.|\n)*aten\.linear.*test_gptq\.py:\d+"):
        passes.run(program, workload=small_workload(program), watchers=())


def test_the_program_that_is_rounded_keeps_its_weights_and_inputs():
    """A model that writes into its input, and a calibration that runs it."""

    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(48, 8)

        def forward(self, x):
            return self.fc(x.add_(1))

    net, data = Writes().eval(), _Mixed(48)
    program = capture(net, (data.x[:2].clone(),))
    before, x = program.fingerprint(), data.x.clone()
    Pipeline.parse("quantize_weights(rounding='gptq')").run(program, workload=_workload(net, data))
    assert program.fingerprint() == before
    assert torch.equal(data.x, x)


@pytest.mark.parametrize("name", ["digits", "glyphs"])
def test_shipped_nets_follow_the_original_better_with_gptq(name):
    workload = find_workload(name)
    program = workload.capture()
    (images,), labels = next(workload.data.batches("test", batch_size=300))
    want = program(images)
    hits = float((want.argmax(1) == labels).float().mean())
    lost = {}
    for how in ("nearest", "gptq"):
        passes = Pipeline.parse(f"quantize_weights(rounding={how!r})")
        got = passes.run(program, workload=workload, watchers=()).program(images)
        assert float((got.argmax(1) == labels).float().mean()) >= hits - 0.005
        lost[how] = float((got - want).square().mean())
    assert lost["gptq"] < lost["nearest"] / 3
