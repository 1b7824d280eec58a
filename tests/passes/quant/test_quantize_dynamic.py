"""Dynamic quantization: codes and ranges against their definition, what is declined, and integer kernels in ONNX Runtime."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, capture, load_program, save_program
from fxopt.backends.onnx import Onnx
from fxopt.backends.openvino import Openvino
from fxopt.driver.artifact_check import Fidelity
from fxopt.driver.lower import lower
from fxopt.errors import PassError
from fxopt.numerics.error_metrics import sqnr
from fxopt.numerics.float64_quant_ops import choose_qparams
from fxopt.passes.quant.weights import has_safe_pairs
from fxopt.target import Target
from fxopt.target.detect import host
from fxopt.testing import small_workload

pytestmark = pytest.mark.usefixtures("one_thread")

importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the ops that a module here calls itself

RANGE = "quantized_decomposed.choose_qparams.tensor"


def _captured(module: nn.Module, *shape: int) -> Program:
    torch.manual_seed(1)
    return capture(module.eval(), (torch.randn(shape),))


def _run(program: Program, passes: str = "quantize_dynamic", **options) -> tuple[Program, list[str]]:
    outcome = Pipeline.parse(passes).run(program, workload=small_workload(program), **options)
    return outcome.program, [str(skip) for step in outcome.steps for skip in step.skips]


class _Products(nn.Module):
    """Two linears that read the same, and products of each kind with a stored matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.a2 = nn.Linear(70, 640), nn.Linear(70, 640)
        self.b, self.c = nn.Parameter(torch.randn(640, 96) / 25), nn.Parameter(torch.randn(96, 50) / 10)
        self.bias, self.d = nn.Parameter(torch.randn(50)), nn.Linear(50, 7, bias=False)

    def forward(self, x):
        y = F.relu(F.relu(self.a(x) + self.a2(x)) @ self.b)
        y = F.relu(torch.addmm(self.bias, y.flatten(0, -2), self.c))
        return self.d(y)


# ---- numbers -------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=9))
def test_the_range_is_that_of_the_onnx_operator(values):
    x = torch.tensor(values)
    scale, zero = (t.item() for t in choose_qparams(x.double(), 0, 255, 1e-38, torch.uint8))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])], "g",
            [onnx.helper.make_tensor_value_info("x", 1, [len(x)])],
            [onnx.helper.make_tensor_value_info(n, k, s) for n, k, s in (("q", 2, [len(x)]), ("s", 1, []), ("z", 2, []))],
        ), opset_imports=[onnx.helper.make_opsetid("", 20)],
    )  # fmt: skip
    _, want, want_zero = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x.numpy()})
    own, own_zero = torch.ops.quantized_decomposed.choose_qparams.tensor(x, 0, 255, 1e-38, torch.uint8)
    if x.abs().max() > 1e-30:
        assert scale == pytest.approx(float(want), rel=1e-6)
        assert own.item() == pytest.approx(scale, rel=1e-6)
        assert abs(zero - int(want_zero)) <= 1, "a tie may fall on either side in float32"
        assert abs(zero - own_zero.item()) <= 1


def test_every_layer_computes_with_codes_of_its_weight_and_of_what_it_reads():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 5, bias=False))
    program = _captured(net, 3, 24)
    vnni = Target("vnni", "x86_64-linux-gnu", features=frozenset({"avx512-vnni"}))
    made, skips = _run(program, target=vnni)
    assert not skips
    x = 5 * torch.randn(7, 24)
    tensors = made.tensors()

    def layer(x, name):
        low, high = min(0.0, x.min().item()), max(0.0, x.max().item())
        step = (high - low) / 255
        zero = round(-low / step)
        x = (np.clip(np.round(x.double().numpy() / step) + zero, 0, 255) - zero) * step
        codes, scales = tensors[f"{name}.weight_int8"].double(), tensors[f"{name}.weight_scale"].detach().double()
        weight = net[int(name)].weight.detach().double()
        assert codes.abs().amax(1).eq(127).all()
        assert bool(((codes * scales[:, None] - weight).abs() <= scales[:, None] * 0.5001).all())
        return torch.as_tensor(x) @ (codes * scales[:, None]).T

    with torch.no_grad():
        y = torch.tanh(layer(x, "0") + net[0].bias.double())
        want = layer(y, "2")
    assert sqnr([want], [made(x)]) > 60, "a code may fall on the other side of a tie"
    assert 30 < sqnr([net(x).detach()], [made(x)]) < 60


def test_zeros_and_tiny_numbers_come_out_as_they_are():
    net = nn.Linear(8, 4)
    made, _ = _run(_captured(net, 2, 8))
    assert torch.equal(made(torch.zeros(3, 8)), net.bias.detach().expand(3, 4))
    net.bias.data.zero_()
    made, _ = _run(_captured(net, 2, 8))
    x = torch.rand(3, 8)
    assert sqnr([made(x)], [made(x * 2**-60) * 2**60]) > 100, "the codes are those of the same numbers"


def test_layers_that_read_the_same_quantize_it_once_unless_it_is_written_to():
    torch.manual_seed(0)
    made, _ = _run(_captured(_Products(), 2, 3, 70))
    assert len(list(made.find(RANGE))) == 4

    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            y = x.clone()
            first = self.a(y)
            y[0] = 9.0
            return first + self.b(y)

    program = _captured(Between(), 4, 8)
    made, _ = _run(program, watchers=())
    x = torch.randn(4, 8)
    assert sqnr([program(x)], [made(x)]) > 30


def test_a_weight_that_a_device_multiplies_in_16_bits_keeps_its_pairs_small():
    torch.manual_seed(0)
    net = nn.Linear(16, 4)
    net.weight.data = net.weight.data.abs() + 0.1
    target = Target(name="old", triple="x86_64-linux-gnu", cpu="old", features=frozenset({"avx2"}), cores=1)
    assert target.int8_saturates
    new = dataclasses.replace(target, features=target.features | {"avx512-vnni"})
    cases = ((target, Onnx(), True), (new, Onnx(), False), (target, Onnx(weights="uint8"), False))
    cases += (
        (target, None, True),
        (new, None, False),
        (None, None, True),
    )  # for nobody knows which machine: safe on all
    for where, backend, small in cases:
        outcome = Pipeline.parse("quantize_dynamic").run(_captured(net, 2, 16), target=where, backend=backend)
        codes = outcome.program.tensors()["weight_int8"]
        assert bool(has_safe_pairs(codes).all()) == small


# ---- what is quantized ---------------------------------------------------------------------------------------------


class _Declined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 1)
        self.words, self.gain = nn.Embedding(9, 32), nn.Parameter(torch.randn(32, 32))
        self.kept, self.good, self.short = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32).bfloat16()

    def forward(self, x):
        y = self.conv(x) + self.words(torch.zeros(4, dtype=torch.int64))
        y = F.linear(y, torch.tanh(self.gain) * x.mean())
        y = self.good(self.kept(y))
        y = F.pad(F.linear(y, self.words.weight), (0, 23)) + self.short(y.bfloat16()).float()
        return y @ y.transpose(1, 2)


def test_every_layer_that_is_left_has_a_reason_and_the_users_line():
    made, skips = _run(_captured(_Declined(), 2, 4, 32), "quantize_dynamic(keep_float=('kept',))", watchers=())
    assert [n.target for n in made.graph.nodes if n.op == "get_attr" and "int8" in str(n.target)] == [
        "good.weight_int8"
    ]
    for reason in (
        ("aten.conv1d(", "only linears"), ("aten.linear(", "no stored weight"), ("%kept_weight", "keep_float=('kept',)"),
        ("%words_weight", "reads its weight too"), ("aten.matmul(", "no stored weight"), ("%short_weight", "not float32"),
    ):  # fmt: skip
        assert any(all(piece in skip for piece in reason) for skip in skips), (reason, skips)
    assert all("test_quantize_dynamic.py:" in skip for skip in skips)


def test_what_cannot_be_quantized_is_an_error_with_its_place():
    net = nn.Sequential(nn.Linear(32, 4))
    program = _captured(net, 2, 32)
    for passes in (
        "quantize_dynamic, quantize_dynamic",
        "quantize_dynamic, quantize",
        "quantize_weights, quantize_dynamic",
    ):
        with pytest.raises(PassError, match=r"quantized already"):
            _run(program, passes, watchers=())
    net[0].weight.data[1, 2] = float("inf")
    with pytest.raises(PassError, match=r"'0\.weight' holds NaN or infinity(.|\n)*aten\.linear"):
        _run(_captured(net, 2, 32), watchers=())


def test_a_layer_without_weights_to_speak_of_and_one_of_zeros():
    net = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3))
    net[0].weight.data[2] = 0
    net[1].weight.data.zero_()
    program = _captured(net, 2, 8)
    made, _ = _run(program)
    assert torch.equal(made(*program.args), net[1].bias.detach().expand(2, 3))


def test_a_program_is_saved_and_read_back(tmp_path):
    made, _ = _run(_captured(_Products(), 2, 3, 70), watchers=())
    save_program(made, tmp_path / "made.pt2")
    back = load_program(tmp_path / "made.pt2")
    x = torch.randn(5, 3, 70)
    assert torch.equal(back(x), made(x))


# ---- in the backends -----------------------------------------------------------------------------------------------


def _optimized(out: Path) -> list[str]:
    """Op types after the runtime's own optimizer, read without fxopt."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(out / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(out / "model.onnx"), options)
    return [node.op_type for node in onnx.load(out / "optimized.onnx").graph.node]


def test_integer_kernels_multiply_at_a_quarter_of_the_size(tmp_path):
    torch.manual_seed(0)
    program = _captured(_Products(), 2, 3, 70)
    made, _ = _run(program)
    for name, one in (("whole", program), ("made", made)):
        (tmp_path / name).mkdir()
        legal, artifact = lower(one, Onnx(), host(), tmp_path / name)
    sizes = {name: (tmp_path / name / "model.onnx").stat().st_size for name in ("whole", "made")}
    assert sizes["made"] < 0.28 * sizes["whole"]
    facts = artifact.manifest.facts
    assert (facts["integer_contractions"], facts["float_contractions"], facts["dequantized_at_run_time"]) == (5, 0, [])
    kinds = _optimized(tmp_path / "made")
    assert kinds.count("MatMulIntegerToFloat") + kinds.count("DynamicQuantizeMatMul") == 5
    assert not {"Gemm", "MatMul", "DequantizeLinear", "QuantizeLinear"} & set(kinds)
    assert Fidelity(legal).check(artifact).sqnr_db > 60
    for batch in (1, 9):
        x = torch.randn(batch, 3, 70)
        assert sqnr([made(x)], [torch.as_tensor(artifact(x.numpy()))]) > 60
        assert sqnr([program(x)], [torch.as_tensor(artifact(x.numpy()))]) > 35


class _ByHand(nn.Module):
    """Forms that the pass does not write: another reader, a scaled addmm, zero points, a single row, signed codes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("codes", torch.randint(-60, 61, (12, 40), dtype=torch.int8, generator=generator))
        self.register_buffer("scales", torch.rand(40, generator=generator) / 100)
        self.register_buffer("zeros", torch.zeros(40, dtype=torch.int8))
        self.register_buffer("shift", torch.arange(40, dtype=torch.int8))

    def forward(self, x):
        ops, form = torch.ops.quantized_decomposed, (0, 255, torch.uint8)
        scale, zero = ops.choose_qparams.tensor(x, 0, 255, 1e-30, torch.uint8)
        d = ops.dequantize_per_tensor.tensor(ops.quantize_per_tensor.tensor(x, scale, zero, *form), scale, zero, *form)
        weight, other = (
            ops.dequantize_per_channel(self.codes, self.scales, zeros, 1, -127, 127, torch.int8)
            for zeros in (self.zeros, self.shift)
        )
        return d + 1, d @ weight, d @ other, torch.addmm(x[:, :1], d, weight, beta=0.5), d[0] @ weight, d.T @ x @ weight


def test_what_the_kernel_does_not_take_is_computed_all_the_same(tmp_path):
    program = _captured(_ByHand(), 12, 12)
    (tmp_path / "made").mkdir()
    _, artifact = lower(program, Onnx(), host(), tmp_path / "made")
    assert artifact.manifest.facts["integer_contractions"] == 1
    x = torch.randn(12, 12)
    for got, want in zip(artifact(x.numpy()), program(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_openvino_gives_the_numbers_and_names_the_layers_it_computes_in_float(tmp_path):
    program = _captured(nn.Sequential(nn.Linear(70, 40), nn.ReLU(), nn.Linear(40, 6)), 2, 70)
    made, _ = _run(program, watchers=())
    legal, artifact = lower(made, Openvino(threads=1), host(), tmp_path)
    assert Fidelity(legal).check(artifact).sqnr_db > 60
    assert len(artifact.manifest.facts["dequantized_at_run_time"]) == 2


class _Convolutions(nn.Module):
    """Of one and two dims, grouped and dilated, with a linear behind them."""

    def __init__(self):
        super().__init__()
        self.first, self.deep = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4)
        self.line, self.head = nn.Conv1d(16, 64, 3, bias=False), nn.Linear(64, 5)

    def forward(self, x):
        x = self.deep(self.first(x).relu()).relu().flatten(2)
        return self.head(self.line(x).mean(-1))


def test_convolutions_are_stored_in_int8_and_unpacked_once(tmp_path):
    torch.manual_seed(0)
    model, x = _Convolutions().eval(), torch.randn(2, 3, 8, 8)
    program = capture(model, (x,))
    after = Pipeline.parse("quantize_dynamic").run(program, backend=Onnx(), target=host()).program
    kinds = {name: t.dtype for name, t in after.tensors().items() if t.dim() > 1}
    assert set(kinds.values()) == {torch.int8}, kinds
    wanted = _Convolutions().double().eval()
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for name in ("first", "deep", "line", "head"):
        weight = state[f"{name}.weight"]
        scale = (weight.flatten(1).abs().amax(1) / 127).float().double().reshape(-1, *[1] * (weight.dim() - 1))
        if name != "head":  # whose input is quantized too
            state[f"{name}.weight"] = (weight / scale).round() * scale
    wanted.load_state_dict(state)
    (tmp_path / "o").mkdir()
    _, built = lower(after, Onnx(), host(), tmp_path / "o")
    assert not built.manifest.facts["dequantized_at_run_time"], "each call would unpack it"
    assert "DequantizeLinear" not in built.manifest.facts["nodes"]
    new = torch.randn(5, 3, 8, 8)
    assert sqnr([wanted(new.double())], [torch.as_tensor(built(new.numpy()))]) > 35
    file = (tmp_path / "o" / "model.onnx").stat().st_size
    (tmp_path / "f").mkdir()
    lower(program, Onnx(), host(), tmp_path / "f")
    assert file < 0.5 * (tmp_path / "f" / "model.onnx").stat().st_size


def test_convolutions_that_stay_in_float_say_why():
    program = capture(_Convolutions().eval(), (torch.randn(2, 3, 8, 8),))
    step = (
        Pipeline.parse("quantize_dynamic(keep_float=('deep',))").run(program, backend=Onnx(), target=host()).steps[-1]
    )
    assert ["keep_float" in skip.reason for skip in step.skips] == [True]
    elsewhere = Pipeline.parse("quantize_dynamic").run(program).steps[-1]
    assert len(elsewhere.skips) == 3
