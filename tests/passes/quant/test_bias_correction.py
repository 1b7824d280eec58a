"""Bias correction: mean outputs against those in float, the analytic form against numpy, integer kernels kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, Workload, capture
from fxopt.backend import Manifest
from fxopt.backend.quant_policy import Policy
from fxopt.backends.onnx import Onnx
from fxopt.driver.interface import interface
from fxopt.errors import DataError
from fxopt.numerics.error_metrics import sqnr
from fxopt.passes.quant.decide import calibrated
from fxopt.passes.quant.emit import emit
from fxopt.passes.quant.encode import encode_layers
from fxopt.passes.quant.placement import place
from fxopt.passes.quant.quantize import PREPARATION
from fxopt.passes.quant.refine.analytic_bias import MeanInputs, correct_analytically
from fxopt.passes.quant.refine.refine import refine
from fxopt.passes.quant.refine.with_bias import with_bias
from fxopt.runtime.artifact import Artifact
from fxopt.target.detect import host
from fxopt.workload import find_workload

pytestmark = pytest.mark.usefixtures("one_thread")


class Data:
    """40 examples, so the last batch of 32 has 8 that differ from the others."""

    metric = "none"

    def __init__(self, *shape: int) -> None:
        self.x = torch.randn(40, *shape, generator=torch.Generator().manual_seed(5)) + 0.5
        self.x[32:] += 2

    def batches(self, split, *, batch_size, seed=None):
        for some in self.x.split(batch_size):
            yield (some,), None


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.b, self.c = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 3, groups=2)
        self.head = nn.Linear(8, 3, bias=False)

    def forward(self, x):
        y = F.relu(self.a(x))
        return self.head(F.relu(self.c(F.relu6(self.b(y)) + y)).mean((2, 3)))


def captured(model: nn.Module, data: Data) -> tuple[Program, Workload]:
    program = capture(model.eval(), (data.x[:2],))
    workload = Workload(name="mine", model=lambda: model, inputs=lambda: (program.args, {}), data=data)
    return Pipeline.of(*PREPARATION).run(program, watchers=()).program, workload


def quantized(program: Program, workload: Workload, options: str, backend: Onnx | None = None) -> Program:
    where = {"watchers": (), "workload": workload, "target": host(), "backend": backend}
    return Pipeline.parse(f"insert_qdq(images=40, {options})").run(program, **where).program


def outputs(program: Program, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What every layer gives, before its activation."""
    found = {}

    class Tap(torch.fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            if n.op == "call_function" and ("conv" in n.name or "linear" in n.name):
                found[n.name] = value.double()
            return value

    with torch.no_grad():
        Tap(program.module).run(x, enable_io_processing=False)
    return found


def mean(value: torch.Tensor) -> torch.Tensor:
    return value.mean([d for d in range(value.dim()) if d != 1])


def codes(program: Program, layer: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weight and bias of a layer of a quantized program as real numbers, and the bias's step."""
    (node,) = [n for n in program.graph.nodes if n.name == layer]
    found = []
    for dequantized in node.args[1:3]:
        integers, scales = (program.tensor(n).detach().double() for n in dequantized.args[:2])
        found.append(integers * scales.reshape(-1, *[1] * (integers.dim() - 1)))
    return found[0], found[1], scales


# ---- empirical -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ["nearest", "adaround"])
def test_every_layer_has_the_mean_outputs_that_it_had_in_float(rounding):
    torch.manual_seed(0)
    data = Data(4, 8, 8)
    program, workload = captured(Net(), data)
    wanted = outputs(program, data.x)
    errors = {}
    for kind in ("none", "empirical"):
        made = quantized(program, workload, f"rounding={rounding!r}, correct_bias={kind!r}")
        given = outputs(made, data.x)
        errors[kind] = {name: (mean(given[name]) - mean(wanted[name])).abs() for name in wanted}
    assert len(wanted) == 4
    for name, error in errors["empirical"].items():
        assert bool((error <= 0.51 * codes(made, name)[2] + 1e-6).all()), name
        assert float(error.sum()) < 0.2 * float(errors["none"][name].sum()), name


def test_biases_correct_the_digits_at_four_bits():
    workload = find_workload("digits")
    program = Pipeline.of(*PREPARATION).run(workload.capture(), workload=workload, watchers=()).program
    ((images,), _) = next(workload.data.batches("test", batch_size=450))
    wanted, found = program(images), {}
    for kind in ("none", "empirical", "analytic"):
        work = program.copy()
        placement = place(work, Policy(), ())
        means = MeanInputs(work, placement.layers)
        ranges = calibrated(work, workload, placement, Policy(), images=64, who="the test", also=means.watching())
        encoded = encode_layers(work, placement.layers, ranges, Policy(), bits=4)
        encoded = refine(
            work, workload, placement, ranges, encoded, Policy(), rounding="nearest", correct_bias=kind, images=64
        )  # fmt: skip
        if kind == "analytic":
            encoded = correct_analytically(work, encoded, ranges, means)
        emit(work, placement, ranges, encoded)
        work.module.recompile()
        found[kind] = sqnr([wanted], [work(images)])
    assert found["empirical"] > found["none"] + 2
    assert found["analytic"] > found["none"] + 1


# ---- analytic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_analytic_correction_is_the_papers_sum_over_the_kernel(groups, bias):
    """Eq. 17 and 18, where the expectation of a channel is the same at every place of the kernel."""
    torch.manual_seed(0)
    conv, data = nn.Conv2d(4, 8, 3, stride=3, groups=groups, bias=bias), Data(4, 9, 9)
    data.x = data.x[:, :, :1, :1].expand(-1, -1, 9, 9).contiguous()
    made = quantized(*captured(conv, data), "correct_bias='analytic'")
    weight, got, step = codes(made, "conv2d")
    expected = data.x.double().mean((0, 2, 3)).numpy()
    error = (weight - conv.weight.detach().double()).sum((2, 3)).numpy()  # [out, in / groups]
    want = np.zeros(8) if conv.bias is None else conv.bias.detach().double().numpy()
    for out in range(8):
        start = out // (8 // groups) * (4 // groups)
        want[out] -= error[out] @ expected[start : start + 4 // groups]
    assert np.all(np.abs(got.numpy() - want) <= 0.51 * step.numpy())
    assert np.abs(want - (0 if conv.bias is None else conv.bias.detach().numpy())).max() > 5 * step.max()


def test_padding_counts_as_the_zeros_that_it_is():
    torch.manual_seed(0)
    conv, data = nn.Conv1d(3, 4, 5, padding=2), Data(3, 4)  # most of what the kernel sees is padding
    made = quantized(*captured(conv, data), "correct_bias='analytic'")
    weight, got, step = codes(made, "conv1d")
    moved = F.conv1d(data.x.double(), weight - conv.weight.detach().double(), padding=2)
    want = conv.bias.detach().double() - mean(moved)
    assert bool(((got - want).abs() <= 0.51 * step).all())


@pytest.mark.parametrize("shape", [(6,), (7, 6)])
@pytest.mark.parametrize("rounding", ["nearest", "adaround"])
def test_a_linear_layer_is_corrected_for_the_codes_that_it_has(shape, rounding):
    torch.manual_seed(0)
    net, data = nn.Linear(6, 5), Data(*shape)
    made = quantized(*captured(net, data), f"rounding={rounding!r}, correct_bias='analytic'")
    weight, got, step = codes(made, "linear")
    expected = data.x.double().flatten(0, -2).mean(0)
    want = net.bias.detach().double() - (weight - net.weight.detach().double()) @ expected
    assert bool(((got - want).abs() <= 0.51 * step).all())


# ---- what comes of it ------------------------------------------------------------------------------------------------


def lowered(program: Program, out) -> tuple[Artifact, dict]:
    legal = Pipeline.parse(Onnx().legalize()).run(program, watchers=()).program
    facts = Onnx().build(legal, host(), out)
    manifest = Manifest(**dict(interface(legal)), backend="onnx", target=host(), files={}, facts=facts)
    return Artifact(out, manifest, Onnx().load(out, manifest)), facts


@pytest.mark.parametrize("tokens", [False, True])
def test_layers_that_get_a_bias_keep_their_integer_kernels(tokens, tmp_path):
    torch.manual_seed(0)
    data = Data(7, 8) if tokens else Data(4, 8, 8)
    net = nn.Sequential(nn.Linear(8, 16, bias=False), nn.GELU(), nn.Linear(16, 5)) if tokens else Net()
    program, workload = captured(net, data)
    made = quantized(program, workload, "rounding='adaround', correct_bias='empirical'", Onnx())
    names = {"0.bias_int32"} if tokens else {"a.bias_int32", "head.bias_int32"}
    assert names <= set(made.tensors())
    artifact, facts = lowered(made, tmp_path)
    assert facts["float_contractions"] == 0
    assert facts["dequantized_at_run_time"] == []
    want, got = made(data.x), torch.from_numpy(artifact(data.x.numpy()))
    assert sqnr([want], [got]) > 30


def test_a_bias_that_does_not_fit_is_left_with_the_reason():
    torch.manual_seed(0)
    program, workload = captured(nn.Linear(6, 5), Data(6))
    placement = place(program, Policy(), ())
    ranges = calibrated(program, workload, placement, Policy(), images=40, who="the test")
    ((node, found),) = encode_layers(program, placement.layers, ranges, Policy()).items()
    scale = ranges[node.args[0]].scale
    assert with_bias(found, "b", torch.full((5,), 1e9).double(), scale) == (
        "the corrected bias does not fit 32 bits at the scale of the products"
    )
    kept = with_bias(found, "b", torch.full((5,), -0.25).double(), scale)
    assert torch.allclose(kept.bias.real(), torch.full((5,), -0.25), atol=1e-4)
    assert (kept.bias.name, kept.weight) == ("bias", found.weight)


def test_a_layer_that_reads_nothing_but_zeros_keeps_its_bias():
    torch.manual_seed(0)
    net, data = nn.Linear(6, 5), Data(6)
    data.x = torch.zeros_like(data.x)
    program, workload = captured(net, data)
    for kind in ("empirical", "analytic"):
        made = quantized(program, workload, f"rounding='adaround', correct_bias={kind!r}")
        assert torch.allclose(codes(made, "linear")[1], net.bias.detach().double(), atol=1e-4)


def test_without_data_the_option_is_named():
    program, _ = captured(nn.Linear(6, 5), Data(6))
    placement = place(program, Policy(), ())
    with pytest.raises(DataError, match=r"insert_qdq\(correct_bias='empirical'\) needs data"):
        refine(program, None, placement, {}, {}, Policy(), rounding="nearest", correct_bias="empirical", images=4)
