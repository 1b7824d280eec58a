"""Profiles: every layer of every backend has its time, kernels go to the layer that they compute, slower twins are named."""

import pytest
import torch
from torch import nn

import fxopt
from fxopt.backend.kernel_time import KernelTime
from fxopt.driver.build import build
from fxopt.driver.layers import LayerFigures
from fxopt.driver.profile import layer_times, profile
from fxopt.driver.recipe import Recipe
from fxopt.errors import BackendError


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.a, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(self.b(torch.relu(self.norm(self.a(x)))) + x)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A model in a file, and images for it."""
    place = tmp_path_factory.mktemp("profile")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), Block(16), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 49, 5)).eval()
    program = fxopt.capture(net, (torch.randn(1, 3, 16, 16),))
    fxopt.save_program(program, place / "net.pt2")
    import numpy

    numpy.save(place / "x.npy", torch.randn(64, 3, 16, 16).numpy())
    return place


@pytest.fixture
def make(recorded, tmp_path):
    def make(backend, passes, name="out"):
        recipe = Recipe(str(recorded / "net.pt2"), passes, backend, calibration=str(recorded / "x.npy"))
        build(recipe, tmp_path / name, measure=False)
        return tmp_path / name

    return make


LAYERS = {"0", "1.a", "1.b", "4"}


INTEGERS, FLOATS = ("fold_batch_norm", "quantize"), ("fold_batch_norm",)


@pytest.mark.parametrize(
    ("backend", "passes"),
    [
        ("onnx", INTEGERS),
        *(pytest.param(backend, INTEGERS, marks=pytest.mark.slow) for backend in ("eager", "openvino", "tvm")),
        *(pytest.param(backend, FLOATS, marks=pytest.mark.slow) for backend in ("eager", "onnx", "openvino", "tvm")),
    ],
)
def test_every_layer_has_a_time_and_a_kernel(make, backend, passes):
    if reason := fxopt.backend.find_backend(backend).missing():
        pytest.skip(reason)
    found = profile(make(backend, passes))
    timed = {layer.module: layer for layer in found.layers if layer.macs}
    assert set(timed) == LAYERS
    assert all(layer.ms > 0 and layer.kernels for layer in timed.values())
    assert {layer.precision for layer in timed.values()} == {"int8" if len(passes) > 1 else "float32"}
    assert "test_profile.py:" in timed["1.a"].source
    assert sum(layer.share for layer in found.layers) == pytest.approx(1)
    assert found.sum_ms == pytest.approx(sum(layer.ms for layer in found.layers))


def test_the_twin_in_float_is_beside_by_layer(make):
    whole, twin = make("eager", INTEGERS), make("eager", FLOATS, "twin")
    found = profile(whole, twin=twin)
    assert all(layer.twin_ms for layer in found.layers if layer.macs)
    slower = [layer.name for layer in found.layers if layer.macs and layer.ms > 1.05 * layer.twin_ms]
    assert found.slower == slower


def _layer(name, *inputs, macs=0, op="aten.relu"):
    return LayerFigures(name=name, op=op, inputs=inputs, macs=macs)


def test_a_fused_kernel_is_of_the_layer_whose_work_it_does_whatever_the_runtime_calls_it():
    layers = [_layer("x"), _layer("conv", "x", macs=9), _layer("relu", "conv"), _layer("conv_1", "relu", macs=5)]
    kernels = [KernelTime("relu_nchwc", "Conv", 3.0, ("relu",)), KernelTime("conv_1", "Conv", 1.0, ("conv_1",))]
    rows = layer_times(
        [KernelTime("reorder", "Transpose", 1.0), *kernels, KernelTime("x", "Copy", 0.0, ("x",))], layers
    )
    assert [(row.name, row.ms) for row in rows] == [("", 1.0), ("conv", 3.0), ("conv_1", 1.0), ("x", 0.0)]
    assert rows[1].share == 0.6


def test_a_kernel_does_not_take_what_another_computes():
    layers = [_layer("conv", macs=9), _layer("relu", "conv")]
    kernels = [KernelTime("a", "Conv", 2.0, ("conv",)), KernelTime("b", "Relu", 1.0, ("relu",))]
    assert [(row.name, row.ms) for row in layer_times(kernels, layers)] == [("conv", 2.0), ("relu", 1.0)]


def test_a_backend_without_a_profiler_says_so(make, monkeypatch):
    from fxopt.backends.eager import Eager

    folder = make("eager", ())
    monkeypatch.delattr(Eager, "profile")
    with pytest.raises(BackendError, match="does not tell") as caught:
        profile(folder)
    assert "bench" in caught.value.way_out


def test_what_the_profiler_adds_is_taken_off(tmp_path):
    """Kernels that do nothing took microseconds each, so the layers of an int8 transformer came to more than the whole."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import numpy

    from fxopt.backends.onnx.profile import profile as kernels_of
    from fxopt.backends.onnx.profiler_cost import chain, overhead
    from fxopt.backends.onnx.runtime import session_options

    model = onnx.load_from_string(chain(200))
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Neg"] * 200
    path = tmp_path / "chain.onnx"
    path.write_bytes(chain(200))
    given, options = [numpy.ones((1, 1, 1, 1), numpy.float32)], session_options(1, "disabled", True)
    options.enable_profiling = True
    shares = []
    for _ in range(3):  # other load makes one of two measurements slower
        fresh = session_options(1, "disabled", True)
        *kernels, call = kernels_of(path, fresh, given, 20, {}, float16=False, gpu=False)
        assert (len(kernels), call.kind) == (200, "call")
        assert call.ms > 0
        shares.append(sum(kernel.ms for kernel in kernels) / 200 / overhead(options).kernel_ms)
    assert 0 < min(shares) < 0.8  # not taken off it is 1 and more
