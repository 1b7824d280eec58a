"""The roofline: rates are those that plain loops reach, bytes and multiply-adds bound each layer, the worst are named."""

import time

import pytest
import torch
from torch import nn

import fxopt
from fxopt.backend import find_backend
from fxopt.driver.build import build
from fxopt.driver.layers import LayerFigures, layers_of
from fxopt.driver.profile import profile
from fxopt.driver.recipe import Recipe
from fxopt.driver.roofline import Roof, measure_roof
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.target import host
from fxopt.testing import small_workload


def _layer(macs, weights, values, precision):
    return LayerFigures(
        name="a", op="aten.linear", macs=macs, weight_bytes=weights, value_bytes=values, precision=precision
    )


def test_a_layer_takes_the_longer_of_computing_and_moving():
    roof = Roof(macs_per_second={"float32": 1e9, "int8": 4e9}, bytes_per_second=1e8)
    assert roof.ms(_layer(4_000_000, 0, 0, "float32")) == pytest.approx(4.0)
    assert roof.ms(_layer(4_000_000, 0, 0, "int8")) == pytest.approx(1.0)
    assert roof.ms(_layer(4_000_000, 0, 0, "float16")) == pytest.approx(4.0), "not measured: that of float32"
    assert roof.ms(_layer(4_000_000, 900_000, 100_000, "int8")) == pytest.approx(10.0)
    # weights are read once for all examples, and what is computed and moved besides is so for each
    assert roof.ms(_layer(0, 300_000, 100_000, ""), batch=4) == pytest.approx(7.0)


class _Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, bias=False), nn.Linear(8 * 36, 5, bias=False)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).flatten(1))


def test_bytes_are_those_of_the_integers_that_a_kernel_reads():
    program = fxopt.capture(_Net().eval(), (torch.randn(2, 3, 8, 8),))
    plain = {layer.module: layer for layer in layers_of(program) if layer.macs}
    assert plain["conv"].value_bytes == 4 * (3 * 64 + 8 * 36), "of one example, as multiply-adds are"
    assert plain["head"].value_bytes == 4 * (8 * 36 + 5)
    quantized = Pipeline.parse("quantize").run(program, watchers=(), workload=small_workload(program)).program
    codes = {layer.module: layer for layer in layers_of(quantized) if layer.macs}
    assert codes["conv"].value_bytes == 3 * 64 + 8 * 36
    assert codes["head"].value_bytes == 8 * 36 + 5


class _Sizes(nn.Module):
    def forward(self, x):
        first, _ = x.chunk(2, 1)
        return first.sum() + torch.zeros(x.shape[0] * 2, 3)


def test_computed_sizes_and_results_that_are_no_tensors_have_no_bytes():
    layers = {layer.op: layer for layer in layers_of(fxopt.capture(_Sizes(), (torch.randn(2, 6),)))}
    assert layers["aten.chunk"].value_bytes == 4 * 6, "of one example, its input alone"
    assert layers["aten.zeros"].value_bytes == 4 * 2 * 3
    assert {layer.value_bytes for op, layer in layers.items() if "mul" in op} == {0}


def test_rates_are_those_of_the_same_work_in_a_plain_loop():
    """Against torch alone: seconds taken for milliseconds, or a layer counted twice, would be far off."""
    roof = measure_roof(Context(backend=find_backend("eager"), target=host()), integers=False)
    x, weight = torch.randn(256, 1024), torch.randn(1024, 1024)
    taken = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(x, weight)
        taken.append(time.perf_counter() - start)
    assert set(roof.macs_per_second) == {"float32"}
    assert 1 / 8 < roof.macs_per_second["float32"] / (256 * 1024 * 1024 / min(taken)) < 8


@pytest.mark.slow
def test_a_profile_names_the_layers_furthest_above_their_roof(tmp_path):
    pytest.importorskip("onnxruntime")
    import numpy

    torch.manual_seed(0)
    fxopt.save_program(fxopt.capture(_Net().eval(), (torch.randn(1, 3, 8, 8),)), tmp_path / "net.pt2")
    numpy.save(tmp_path / "x.npy", torch.randn(16, 3, 8, 8).numpy())
    recipe = Recipe(str(tmp_path / "net.pt2"), ("quantize",), "onnx(threads=1)", calibration=str(tmp_path / "x.npy"))
    build(recipe, tmp_path / "out", measure=False)
    state = torch.random.get_rng_state()
    found = profile(tmp_path / "out", roofline=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.roof is not None
    assert set(found.roof.macs_per_second) == {"float32", "int8"}
    named = {layer.name: layer for layer in found.layers if layer.name}
    assert all(layer.roof_ms is not None for layer in named.values())
    gains = [named[name].ms - named[name].roof_ms for name in found.above_roof]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] > 0.01 * found.sum_ms * 0.99
    fastest = max(1000 * layer.macs / layer.ms for layer in named.values() if layer.precision == "int8")
    assert found.roof.macs_per_second["int8"] >= fastest, "no layer of the artifact is faster than its roof"
    assert profile(tmp_path / "out").roof is None
