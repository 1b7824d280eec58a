"""Half precision: against torch's own half modules, what stays in float32 and why, and what the backends make of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, Workload, capture, load_program, save_program
from fxopt.backends.onnx import Onnx
from fxopt.backends.openvino import Openvino
from fxopt.driver.artifact_check import Fidelity
from fxopt.driver.build import build
from fxopt.driver.lower import lower
from fxopt.driver.recipe import Recipe
from fxopt.errors import BackendError, PassError, VerifyError
from fxopt.ir.printer import op_name
from fxopt.numerics.error_metrics import sqnr
from fxopt.pass_manager.step import Findings
from fxopt.target.detect import host
from fxopt.testing import small_models, small_workload

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def _captured(module: nn.Module, *shape: int) -> Program:
    torch.manual_seed(1)
    return capture(module.eval(), (torch.randn(shape),))


def _cast(program: Program, passes: str = "cast_floats", **options) -> tuple[Program, Findings, list[str]]:
    """The cast program, findings of the last step, and its reasons."""
    outcome = Pipeline.parse(passes).run(program, **options)
    return outcome.program, outcome.steps[-1].findings, [str(skip) for skip in outcome.steps[-1].skips]


def _dtype(program: Program, op: str) -> set[torch.dtype]:
    return {node.meta["val"].dtype for node in program.find(op)}


# ---- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_give_what_torch_gives_in_half_precision(dtype):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 5))
    program = _captured(net, 2, 3, 8, 8)
    made, findings, reasons = _cast(program, f"cast_floats(dtype={dtype!r})")
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        want = net.to(DTYPES[dtype])(x.to(DTYPES[dtype])).float()
    assert torch.equal(made(x), want)
    assert not reasons
    assert {t.dtype for t in made.tensors().values()} == {DTYPES[dtype]}
    digits = -20 * math.log10(torch.finfo(DTYPES[dtype]).eps)
    assert digits - 10 < findings.sqnr_db < digits + 30


def test_the_reported_error_is_that_of_the_computation_not_of_the_weights_alone():
    class Square(nn.Module):
        def forward(self, x):
            return torch.tanh(x) * x

    program = _captured(Square(), 4, 64)
    made, findings, _ = _cast(program, "cast_floats(dtype='bfloat16')")
    assert findings.sqnr_db == pytest.approx(sqnr([program(*program.args)], [made(*program.args)]), abs=4)


@pytest.mark.parametrize("model", [m.name for m in small_models()])
def test_every_small_model_is_cast_and_keeps_its_numbers(model, programs):
    program = programs[model]
    made, findings, reasons = _cast(program)
    assert findings.sqnr_db > 60
    weights = {n: t for n, t in made.tensors().items() if t.is_floating_point() and t.dim() > 1}
    assert {t.dtype for t in weights.values()} <= {torch.float16}
    floats = [n for n in made.graph.nodes if getattr(n.meta.get("val"), "dtype", None) == torch.float32]
    assert not [n for n in floats if op_name(n) in ("aten.linear", "aten.conv2d", "aten.matmul")]
    assert all("small_models.py:" in reason for reason in reasons)


# ---- what stays in float32 -----------------------------------------------------------------------------------------


class _Written(nn.Module):
    """A norm and a rotation by positions, written out, between linears."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.register_buffer("frequencies", 1.0 / 10000 ** (torch.arange(16) / 16))

    def forward(self, x):
        x = 400 * self.a(x)  # the squares are beyond float16
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-9)
        angle = torch.outer(torch.arange(3000, 3000 + x.shape[1]).float(), self.frequencies)
        return torch.softmax(self.b(x * angle.cos()), -1)


def test_a_norm_and_positions_that_are_written_out_keep_their_digits():
    program = _captured(_Written(), 2, 6, 16)
    made, findings, reasons = _cast(program)
    assert _dtype(made, "aten.add.Tensor") == {torch.float32}, "the epsilon is zero in float16"
    assert _dtype(made, "aten.outer") <= {torch.float32}, "above 2048 float16 has no odd positions"
    for op in ("aten.pow.Tensor_Scalar", "aten.mean.dim", "aten.rsqrt", "aten.cos", "aten.softmax.int"):
        assert _dtype(made, op) == {torch.float32}, op
    assert _dtype(made, "aten.linear") == {torch.float16}
    assert findings.sqnr_db > 50
    assert any("aten.softmax.int" in reason and "softmax is taken in float32" in reason for reason in reasons)


def test_a_mask_whose_fill_is_beyond_the_range_masks_as_before():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48)
            self.register_buffer("fill", torch.full((5, 5), torch.finfo(torch.float32).min).triu(1))
            self.fill[2] = torch.finfo(torch.float32).min  # a row that may look at nothing

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, -1)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=self.fill.unsqueeze(0))

    program = _captured(Masked(), 2, 5, 16)
    for dtype in DTYPES:
        made, findings, reasons = _cast(program, f"cast_floats(dtype={dtype!r})")
        assert bool(made(*program.args).isfinite().all())
        assert findings.sqnr_db > 35
        assert any("'fill' reaches 3.403e+38, beyond the range" in reason for reason in reasons)


def test_a_weight_beyond_the_range_is_named_and_its_layer_stays():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    net[2].weight.data[0, 0] = 1e5
    program = _captured(net, 2, 8)
    made, _, reasons = _cast(program, "cast_floats", watchers=())
    assert len(reasons) == 1
    assert "'2.weight' reaches 1e+05, beyond the range of float16" in reasons[0]
    assert [t.dtype for n, t in made.tensors().items() if "weight" in n] == [torch.float16, torch.float32]
    made, _, reasons = _cast(program, "cast_floats(dtype='bfloat16')")
    assert not reasons


def test_a_value_that_overflows_on_the_way_is_an_error():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    net[0].weight.data.fill_(6e4)
    with pytest.raises(VerifyError, match=r"output 0 is no longer finite\n.*aten\.to\.dtype"):
        _cast(_captured(net, 2, 8))
    _, findings, _ = _cast(_captured(net, 2, 8), "cast_floats(dtype='bfloat16')")
    assert findings.sqnr_db > 35


def test_a_layer_is_kept_by_its_path_or_its_weights():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    for pattern in ("0", "0.weight", "[0-1]"):
        made, _, reasons = _cast(_captured(net, 2, 8), f"cast_floats(keep_float=({pattern!r},))")
        assert [node.meta["val"].dtype for node in made.find("aten.linear")] == [torch.float32, torch.float16]
        assert ["kept in float32 by keep_float=" in reason for reason in reasons] == [True]


def test_a_quantized_program_is_refused():
    program = _captured(nn.Linear(8, 4), 2, 8)
    with pytest.raises(PassError, match=r"quantized: its float values belong to its scales\n.*quantize_per_tensor"):
        _cast(program, "quantize, cast_floats", workload=small_workload(program))


def test_a_weight_that_is_read_in_both_precisions_is_stored_once_and_said_so():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8, bias=False)

        def forward(self, x):
            return self.fc(x) + self.fc.weight.square().sum()

    made, _, reasons = _cast(_captured(Both(), 2, 8))
    assert [t.dtype for t in made.tensors().values()] == [torch.float32]
    assert any("stored in float32 and cast at every run" in reason for reason in reasons)
    assert _dtype(made, "aten.linear") == {torch.float16}


def test_what_the_graph_writes_to_is_read_after_the_write():
    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            y = torch.zeros_like(x)
            first = y[:2]
            first += x[:2]
            return self.fc(y)

    made, findings, _ = _cast(_captured(Filled(), 4, 8))
    assert findings.sqnr_db > 60
    assert _dtype(made, "aten.linear") == {torch.float16}


def test_comparisons_of_inputs_are_made_in_full_precision():
    class Above(nn.Module):
        def forward(self, x):
            return x * 2, x > 1.0001

    made, _, _ = _cast(_captured(Above(), 2, 8))
    x = torch.tensor([[1.00005, 1.0002] * 4])
    assert made(x)[1].tolist() == [[False, True] * 4]


def test_integers_and_doubles_are_left_as_they_are():
    class Mixed(nn.Module):
        def forward(self, x, n):
            return (x.double() + 1e-12).sum(), n + 1

    program = capture(Mixed(), (torch.randn(2, 8), torch.arange(4)))
    _, findings, _ = _cast(program)
    assert findings.sqnr_db == math.inf


def test_a_cast_program_is_saved_and_further_passes_are_proved_on_it(tmp_path, programs):
    made, _, _ = _cast(programs["residual"], "cast_floats, fold_batch_norm, clean_up")
    save_program(made, tmp_path / "half.pt2")
    back = load_program(tmp_path / "half.pt2")
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(back(x), made(x))


# ---- in the backends -----------------------------------------------------------------------------------------------


class _Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 64, 3), nn.LayerNorm(64)
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 10)

    def forward(self, x):
        y = self.norm(F.gelu(self.conv(x)).flatten(2).transpose(1, 2))
        return self.down(F.silu(self.up(y))).mean(1).softmax(-1)


def _built(passes: tuple[str, ...], backend: str, out: Path) -> dict:
    torch.manual_seed(0)
    net = _Wide().eval()
    workload = Workload(name="wide", model=lambda: net, inputs=lambda: ((torch.randn(2, 3, 8, 8),), {}))
    program = workload.capture()
    made = Pipeline.parse(passes).run(program, watchers=()).program
    legal, artifact = lower(made, _backend(backend), host(), out)
    x = torch.randn(3, 3, 8, 8)
    return {
        "agreement": Fidelity(legal).check(artifact),
        "bytes": sum(f.stat().st_size for f in out.glob("model.*")),
        "sqnr": sqnr([net(x).detach()], [torch.as_tensor(artifact(x.numpy()))]),
        "facts": artifact.manifest.facts,
    }


def _backend(name: str):
    return {"onnx": Onnx(), "openvino": Openvino(threads=1)}[name]


def test_float16_runs_in_onnx_runtime_at_half_the_size(tmp_path):
    for name in ("whole", "half"):
        (tmp_path / name).mkdir()
    whole = _built(("clean_up",), "onnx", tmp_path / "whole")
    half = _built(("cast_floats",), "onnx", tmp_path / "half")
    assert half["bytes"] < 0.6 * whole["bytes"]
    assert half["sqnr"] > 55
    assert half["agreement"].relative_error < 0.01
    stored = onnx.load(tmp_path / "half" / "model.onnx").graph.initializer
    assert all(t.data_type != onnx.TensorProto.FLOAT or math.prod(t.dims) <= 64 for t in stored), "only the norm's"


def test_attention_in_float16_runs_in_onnx_runtime(tmp_path):
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True, activation="gelu")
    program = _captured(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), 1, 16, 64)
    legal, artifact = lower(_cast(program)[0], Onnx(threads=1), host(), tmp_path)  # a crash ends the process
    assert artifact.manifest.facts["float16"]
    assert Fidelity(legal).check(artifact).sqnr_db > 55


def test_bfloat16_is_refused_before_the_export_with_every_node(tmp_path):
    with pytest.raises(BackendError) as refused:
        _built(("cast_floats(dtype='bfloat16')",), "onnx", tmp_path)
    for op in ("aten.conv2d", "aten.gelu", "aten.linear", "aten.silu"):
        assert f"no kernel of {op} for bfloat16" in str(refused.value)
    assert "aten.layer_norm(" not in str(refused.value), "it computes in float32"
    assert "test_cast_floats.py:" in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_bfloat16_runs_in_openvino_at_half_the_size(tmp_path):
    made = _built(("cast_floats(dtype='bfloat16')",), "openvino", tmp_path)
    assert made["sqnr"] > 35
    weights = sum(p.numel() for p in _Wide().parameters())
    assert (tmp_path / "model.bin").stat().st_size < 2.3 * weights


def test_weights_that_are_only_stored_in_bfloat16_run_in_onnx_runtime(tmp_path):
    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.randn(16, 8).bfloat16())

        def forward(self, x):
            return x @ self.w.t().float()

    program = _captured(Stored(), 2, 8)
    _, artifact = lower(program, Onnx(), host(), tmp_path)
    x = torch.randn(3, 8)
    np.testing.assert_allclose(artifact(x.numpy()), program(x), rtol=1e-5, atol=1e-5)


def test_half_precision_is_no_excuse_for_other_numbers(tmp_path):
    net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    program = _captured(net, 4, 16)
    half = _cast(program)[0]
    net[2].weight.data[1, 3] *= 2
    wrong = _cast(_captured(net, 4, 16))[0]
    legal, artifact = lower(wrong, Onnx(), host(), tmp_path)
    assert Fidelity(legal).check(artifact).relative_error < 0.005
    with pytest.raises(BackendError, match=r"allowed 0\.031 relative"):
        Fidelity(half).check(artifact)


@pytest.mark.slow
def test_the_digits_in_half_precision_are_as_good_as_before(tmp_path):
    recipe = Recipe("digits", ("fold_batch_norm", "cast_floats"))
    report = build(recipe, tmp_path / "out")  # measured: only then is there a reference file to be smaller than
    assert abs(report.before.metric - report.after.metric) <= 0.003
    assert report.after.file_bytes < 0.62 * report.before.file_bytes
    assert report.steps[-1].sqnr_db > 50
