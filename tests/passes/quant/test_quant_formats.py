"""Formats of quantization beside the usual one: 16 bits, symmetric activations, one scale a weight."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from cases.integer_chain import IntegerChain
from hypothesis import given
from hypothesis import strategies as st

from fxopt import Pipeline, capture
from fxopt.backends.onnx import Onnx
from fxopt.backends.openvino import Openvino
from fxopt.driver.artifact_check import Fidelity
from fxopt.driver.lower import lower
from fxopt.errors import BackendError, OptionError
from fxopt.numerics.error_metrics import sqnr
from fxopt.passes.quant.observers import FORMATS, Affine
from fxopt.target import find_target
from fxopt.target.detect import host
from fxopt.testing import small_workload

pytestmark = pytest.mark.usefixtures("one_thread")

UNBOUNDED = find_target("raspberry_pi_4")
"""A target whose kernels take any int8 weights, whatever this machine is."""
LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767)}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return capture(IntegerChain().eval(), (torch.randn(2, 4, 8, 8),))


def _quantize(program, options, backend=None, target=None):
    backend = backend or Onnx(opset=21)
    where = {"workload": small_workload(program), "target": target or host(), "backend": backend}
    return Pipeline.parse(f"quantize({options})").run(program, **where).program


def _seen(program):
    """Values that calibration saw, none of which is clipped."""
    (x,) = next(small_workload(program).calibration(8, "the test"))
    return x


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=9), st.sampled_from(list(LIMITS)))
def test_codes_hold_zero_exactly_and_every_number_to_half_a_step(values, name):
    low, high = LIMITS[name]
    code = Affine.over(min(values), max(values), FORMATS[name])
    assert code.form.limits == (low, high)
    assert low <= code.zero_point <= high
    if name.startswith("int"):
        assert code.zero_point == 0
    x = np.array([*values, 0.0])
    q = np.clip(np.round(x / code.scale) + code.zero_point, low, high)
    back = (q - code.zero_point) * code.scale
    assert back[-1] == 0
    if max(map(abs, values)) > 1e-6:
        assert np.abs(back - x).max() <= code.scale * (1 + 1e-3)
        widest = max(map(abs, values)) / 127 if name == "int8" else None
        assert widest is None or code.scale == pytest.approx(widest, rel=1e-6), "no code is given away"


@pytest.mark.parametrize("name", LIMITS)
def test_activations_are_of_the_format_and_weights_of_eight_bits(net, name):
    made = _quantize(net, f"activations={name!r}")
    codes = list(made.find("quantized_decomposed.quantize_per_tensor"))
    assert {node.args[3:] for node in codes} == {(*LIMITS[name], getattr(torch, name))}
    assert {node.args[2] for node in codes} == {0} or name.startswith("u")
    assert {t.dtype for n, t in made.tensors().items() if "weight_int8" in n} == {torch.int8}
    assert len(codes) == 10, "the placement is the same"


def test_more_bits_of_activations_lose_less(net):
    x = _seen(net)
    found = {
        name: sqnr([net(x)], [_quantize(net, f"activations={name!r}, rounding='nearest'", target=UNBOUNDED)(x)])
        for name in LIMITS
    }
    floor = sqnr([net(x)], [_weights_alone(net)(x)])
    assert min(found.values()) > 38
    for name in ("uint16", "int16"):
        assert found[name] == pytest.approx(floor, abs=1.5), "the rounding of the weights is left, and what it clips"


def _weights_alone(program):
    """The quantized program with quantize and dequantize of activations taken out."""
    made = _quantize(program, "activations='uint16'", target=UNBOUNDED)
    for node in list(made.find("quantized_decomposed.dequantize_per_tensor")):
        node.replace_all_uses_with(node.args[0].args[0])
    made.module.recompile()
    return made


def test_one_scale_a_weight_is_the_largest_channels(net):
    made = _quantize(net, "per_channel=False")
    assert not any(made.find("quantized_decomposed.dequantize_per_channel"))
    stored = {n: t for n, t in made.tensors().items() if "weight" in n}
    assert all(t.dtype == torch.int8 for t in stored.values())
    scales = {
        str(node.args[0].target): node.args[1]
        for node in made.find("quantized_decomposed.dequantize_per_tensor")
        if node.args[0].op == "get_attr"
    }
    for name in ("a", "b", "c", "head"):
        weight = net.tensors()[f"{name}.weight"].detach()
        assert scales[f"{name}.weight_int8"] >= weight.abs().max().item() / 127 * (1 - 1e-6)
        error = stored[f"{name}.weight_int8"] * scales[f"{name}.weight_int8"] - weight
        assert error.abs().max().item() <= scales[f"{name}.weight_int8"] * 0.5001
    x = _seen(net)
    assert sqnr([net(x)], [made(x)]) > 35


def test_options_go_together_with_the_others(net):
    made = _quantize(
        net, "activations='uint16', per_channel=False, calibration='mse', correct_bias='analytic', sqnr_db=20.0"
    )
    x = _seen(net)
    assert sqnr([net(x)], [made(x)]) > 20
    with pytest.raises(OptionError, match="activations"):
        Pipeline.parse("quantize(activations='uint4')")


# ---- in the backends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "integer"),
    [("per_channel=False", 4), ("activations='uint16'", 0), ("activations='int16'", 0), ("activations='int8'", None)],
)
def test_onnx_runtime_gives_the_numbers_and_counts_what_is_integer(net, options, integer, tmp_path):
    backend = Onnx(opset=21)
    made = _quantize(net, options, backend)
    legal, artifact = lower(made, backend, host(), tmp_path)
    assert Fidelity(legal).check(artifact).sqnr_db > 60
    facts = artifact.manifest.facts
    assert facts["integer_contractions"] + facts["float_contractions"] == 4
    if integer is not None:
        assert facts["integer_contractions"] == integer
        assert len(facts["dequantized_at_run_time"]) == 4 - integer
    kinds = {i.data_type for i in onnx.load(tmp_path / "model.onnx").graph.initializer}
    sixteen = {onnx.TensorProto.UINT16, onnx.TensorProto.INT16}
    assert bool(kinds & sixteen) == ("16" in options)


def test_sixteen_bits_are_refused_where_they_would_not_be_computed(net, tmp_path):
    made = _quantize(net, "activations='int16'")
    with pytest.raises(BackendError, match=r"quantize_per_tensor(.|\n)*need opset 21, this is 20: onnx\(opset=21\)"):
        lower(made, Onnx(), host(), tmp_path)
    with pytest.raises(BackendError, match=r"OpenVINO does not clip codes of 16 bits"):
        lower(made, Openvino(), host(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_openvino_has_integer_kernels_for_symmetric_activations(net, tmp_path):
    backend = Openvino(threads=1)
    made = _quantize(net, "activations='int8', per_channel=False", backend)
    legal, artifact = lower(made, backend, host(), tmp_path)
    assert Fidelity(legal).check(artifact).sqnr_db > 60
    assert artifact.manifest.facts["integer_contractions"] == 4
