"""The check of int8 artifacts: what it refuses, with the layer's name, and what it lets pass."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from cases.int8_nets import KINDS, Int8Net
from onnx import numpy_helper

from fxopt import Pipeline, load
from fxopt.backend import find_backend
from fxopt.driver.artifact_check import Fidelity
from fxopt.driver.intermediate_values import Exposed
from fxopt.driver.lower import lower
from fxopt.errors import BackendError, DisagreementError
from fxopt.passes.quant import encode
from fxopt.target import find_target
from fxopt.target.detect import host
from fxopt.target.int8_pairs import adds_pairs, heaviest_pairs
from fxopt.workload import find_workload

OLD, NEW = find_target("x86_64_v3"), find_target("x86_64_vnni")
NETS = {net.name: net for net in KINDS}


def _quantized(net, backend, target=OLD):
    workload = net.workload()
    run = {"workload": workload, "target": target, "backend": backend, "watchers": ()}
    return Pipeline.parse(net.passes).run(workload.capture(), **run).program, workload


def _checked(program, backend, target, folder, workload, spoil=lambda path: None):
    """Build, spoil the file, and check it as a build does."""
    (folder / "artifact").mkdir(parents=True)
    legal, built = lower(program, backend, target, folder / "artifact", workload=workload)
    spoil(folder / "artifact")
    exposed = lambda: Exposed(legal, backend, target, built, folder / "exposed")  # noqa: E731
    return Fidelity(legal).check(built, exposed)


# ---- the rule --------------------------------------------------------------------------------------------------------


def test_pairs_are_aligned_of_one_sign_and_in_the_order_of_the_kernels():
    def heaviest(*codes, shape):
        return heaviest_pairs(np.array(codes, np.int8).reshape(1, *shape)).tolist()

    assert heaviest(127, 1, 127, 1, shape=(4,)) == [128]
    assert heaviest(1, 127, 127, 1, shape=(4,)) == [128], "127 and 127 straddle two pairs"
    assert heaviest(127, 127, shape=(2,)) == [254]
    assert heaviest(-127, 127, -127, shape=(3,)) == [127], "signs that differ need no limit, and the last is alone"
    assert heaviest(-100, -100, shape=(2,)) == [200]
    # [in 2, kernel 2] as stored; kernels read position by position
    assert heaviest(100, 1, 2, 100, shape=(2, 2)) == [102]
    assert heaviest(*[60] * 6, shape=(3, 2)) == [120], "both orders where channels are odd"
    assert heaviest(5, 100, 1, 0, 9, 0, shape=(3, 2)) == [109], "the third channel and the next position's first"


def test_one_filter_a_channel_is_exempt_and_several_or_one_input_channel_are_not():
    assert not adds_pairs((8, 1, 3, 3), 8)
    assert not adds_pairs((1, 1, 3, 3), 1)
    assert adds_pairs((16, 1, 3, 3), 8), "a multiplier"
    assert adds_pairs((16, 1, 3, 3), 1), "grey images"
    assert adds_pairs((4, 2, 3), 4), "two channels to one"
    assert adds_pairs((4, 1), 1), "a linear"


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("layers", ["one", "all"])
def test_weights_without_the_rule_are_refused_by_layer(name, layers, tmp_path, monkeypatch):
    backend = find_backend(f"{name}(threads=1)")
    rule, asked = encode.needs_safe_pairs, []

    def sometimes(layer, weight, policy):
        asked.append(layer)
        return layers == "one" and len(asked) != 1 and rule(layer, weight, policy)

    monkeypatch.setattr(encode, "needs_safe_pairs", sometimes)
    program, workload = _quantized(NETS["linear"], backend)
    with pytest.raises(BackendError, match=r"overflow in the kernels") as caught:
        _checked(program, backend, OLD, tmp_path, workload)
    names = [f"layers.{i}.weight_int8" for i in (0, 2)]
    assert [name in str(caught.value) for name in names] == [True, layers == "all"]
    assert "export" not in str(caught.value)


def test_a_wrong_zero_point_is_refused_and_names_the_layer_that_reads_it(tmp_path):
    backend = find_backend("onnx(threads=1)")
    program, workload = _quantized(NETS["linear"], backend)

    def spoil(folder):
        model = onnx.load(folder / "model.onnx")
        values = [
            n for n in model.graph.node if n.op_type == "DequantizeLinear" and "quantize_per_tensor" in n.input[0]
        ]
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        zero = numpy_helper.to_array(stored[values[-1].input[2]])
        model.graph.initializer.append(numpy_helper.from_array(np.array(zero + 9, zero.dtype), "wrong"))
        values[-1].input[2] = "wrong"
        onnx.save(model, folder / "model.onnx")

    with pytest.raises(DisagreementError, match="computes 1 layer") as caught:
        _checked(program, backend, host(), tmp_path, workload, spoil)
    assert "aten.linear" in str(caught.value)
    assert "keep_float" in str(caught.value)


# ---- what passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onnx", "onnx(weights='uint8')", "openvino"])
@pytest.mark.parametrize("net", KINDS, ids=lambda net: net.name)
def test_artifacts_for_this_machine_pass_value_by_value(name, net, tmp_path):
    backend = find_backend(name)
    program, workload = _quantized(net, backend, host())
    agreed = _checked(program, backend, host(), tmp_path, workload)
    assert agreed.values.codes > 0
    assert agreed.values.off <= 0.01 * agreed.values.codes


def test_full_range_weights_are_kept_as_uint8_where_int8_would_overflow(tmp_path):
    """The same codes around another zero point, read back by ONNX's reference, and integer kernels for all layers."""
    backend = find_backend("onnx(weights='uint8')")
    program, workload = _quantized(NETS["linear"], backend)
    legal, built = lower(program, backend, OLD, tmp_path, workload=workload)
    assert built.manifest.facts["float_contractions"] == 0
    assert built.manifest.facts["overflows_in_16_bits"] == []
    model = onnx.load(tmp_path / "model.onnx")
    weights = [numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) == 2]
    codes = [t for name, t in sorted(legal.tensors().items()) if name.endswith("weight_int8")]
    assert [w.dtype for w in weights] == [np.uint8] * 2
    assert max(int(c.abs().max()) for c in codes) == 127, "no bound"
    for code in codes:
        assert any(
            np.array_equal(w.astype(int) - 128, side) for w in weights for side in (code.numpy(), code.numpy().T)
        )


def test_fastest_tries_both_ways_to_store_weights_where_one_is_bounded():
    assert [str(b) for b in find_backend("onnx").alternatives(OLD)] == ["onnx", "onnx(weights='uint8')"]
    assert [str(b) for b in find_backend("onnx").alternatives(NEW)] == ["onnx"]
    assert [str(b) for b in find_backend("tvm").alternatives(OLD)] == ["tvm", "tvm(full_range=True)"]
    assert [str(b) for b in find_backend("tvm").alternatives(NEW)] == ["tvm"]


def test_what_was_built_for_vnni_is_refused_where_it_would_overflow(tmp_path, monkeypatch):
    backend = find_backend("onnx")
    program, workload = _quantized(NETS["linear"], backend, NEW)
    lower(program, backend, NEW, tmp_path, workload=workload)
    monkeypatch.setattr("fxopt.target.int8_pairs.host", lambda: OLD)
    with pytest.raises(BackendError, match=r"built for x86_64_vnni: int8 weights of 2 layer") as caught:
        load(tmp_path)
    assert "-t x86_64_v3" in str(caught.value)
    # the build itself goes on, by kernels for two unsigned bytes
    (tmp_path / "again").mkdir()
    _, built = lower(program, backend, NEW, tmp_path / "again", workload=workload)
    assert built.elsewhere is None
    x = torch.randn(3, 70)
    assert np.allclose(built(x.numpy()), program(x), atol=1e-4)


def test_the_counted_kernels_are_those_of_the_level_that_the_session_uses(tmp_path):
    program, workload = _quantized(NETS["linear"], find_backend("onnx"))
    counts = {}
    for level in ("all", "basic"):
        (tmp_path / level).mkdir()
        _, built = lower(
            program, find_backend(f"onnx(optimization_level={level!r})"), OLD, tmp_path / level, workload=workload
        )
        counts[level] = built.manifest.facts["integer_contractions"]
    assert counts == {"all": 2, "basic": 0}


@pytest.mark.zoo
@pytest.mark.parametrize(
    "name",
    [
        "resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5", "googlenet",
        "densenet121", "efficientnet_b0", "regnet_y_400mf",
    ],
)  # fmt: skip
def test_zoo_models_pass(name, tmp_path):
    backend = find_backend("onnx")
    program, workload = _quantized(Int8Net(name, lambda: find_workload(f"torchvision:{name}")), backend)
    agreed = _checked(program, backend, OLD, tmp_path, workload)
    print(f"\n{name}: {agreed}")
