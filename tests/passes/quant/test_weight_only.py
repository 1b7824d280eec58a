"""Weights as integers in blocks: codes against their definition, what is declined, and what runs in ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from cases.manifests import bare_manifest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, capture, load_program, save_program
from fxopt.backends.onnx import Onnx
from fxopt.errors import OptionError, PassError
from fxopt.ir.parser import canonical_text, parse_program
from fxopt.numerics.error_metrics import sqnr
from fxopt.passes.quant.weight_only.blocks import Grid, nearest
from fxopt.target.detect import host
from fxopt.testing import small_workload

pytestmark = pytest.mark.usefixtures("one_thread")

finite = st.floats(-(2.0**120), 2.0**120, width=32)
GROUPED = "quantized_decomposed.dequantize_per_channel_group"


def _captured(module: nn.Module, *shape: int) -> Program:
    torch.manual_seed(1)
    return capture(module.eval(), (torch.randn(shape),))


def _run(program: Program, passes: str = "quantize_weights") -> tuple[Program, list[str]]:
    outcome = Pipeline.parse(passes).run(program, workload=small_workload(program), watchers=())
    return outcome.program, [str(skip) for step in outcome.steps for skip in step.skips]


# ---- numbers -------------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(finite, min_size=21, max_size=21), min_size=1, max_size=3), st.sampled_from([4, 8]))
def test_codes_are_the_nearest_of_the_grid_and_the_largest_weight_has_the_lowest(rows, bits):
    weight = torch.tensor(rows)
    made = nearest(weight, Grid.of(bits, 16, 21))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    assert made.integers.shape == (len(rows), 32)
    assert made.scales.shape == (len(rows), 2)
    assert bool((made.scales != 0).all()), "a block of zeros has a scale too"
    assert not made.integers[:, 21:].any(), "what fills up a block is zero"
    for block, part in enumerate((weight[:, :16], weight[:, 16:])):
        scale = made.scales[:, block].double().unsqueeze(1)
        codes = made.integers[:, 16 * block : 16 * block + part.shape[1]].double()
        assert bool(((codes >= low) & (codes <= high)).all())
        assert bool(((codes * scale - part.double()).abs() <= scale.abs() / 2 * (1 + 1e-6)).all())
        for row, size in zip(part.double(), scale.squeeze(1), strict=True):
            most = float(row.abs().max())
            if most < 1e-30:
                continue
            tight = max(most / -low, float(torch.where(row * row[row.abs().argmax()] < 0, row, 0).abs().max()) / high)
            assert float(size.abs()) == pytest.approx(tight, rel=1e-6)


@pytest.mark.parametrize(
    ("passes", "floor"), [("bits=8", 35), ("bits=8, block=0", 34), ("bits=4, block=16", 14), ("", 13)]
)
def test_the_graph_computes_with_codes_times_scales(passes, floor):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(72, 40), nn.ReLU(), nn.Linear(40, 6, bias=False))
    program = _captured(net, 3, 72)
    (step,) = Pipeline.parse(f"quantize_weights({passes})").run(program).steps
    assert step.findings.sqnr_db > floor - 3, "the replay in float64 computes the same"
    made, skips = _run(program, f"quantize_weights({passes})")
    assert not skips
    x = torch.randn(5, 72)
    tensors, want = made.tensors(), x
    for name in ("0", "2"):
        codes = next(t for n, t in tensors.items() if n.startswith(f"{name}.weight_int"))
        scales = tensors[f"{name}.weight_scale"].detach()
        size = codes.shape[1] // scales.shape[1]
        weight = (codes.double().reshape(len(codes), -1, size) * scales.double().unsqueeze(-1)).flatten(1)
        bias = net[0].bias.detach().double() if name == "0" else None
        want = F.linear(want.double(), weight[:, : want.shape[1]], bias)
        want = want.relu() if name == "0" else want
    assert torch.allclose(made(x).double(), want, atol=1e-5)
    assert floor < sqnr([program(x)], [made(x)]) < floor + 20
    assert not any("weight" in name and t.dtype == torch.float32 and t.dim() > 1 and "scale" not in name
                   for name, t in tensors.items()), "the float weight is gone"  # fmt: skip


def test_a_short_row_is_one_block_and_takes_no_more_room():
    made, _ = _run(_captured(nn.Linear(20, 5), 2, 20))
    assert made.tensors()["weight_int4"].shape == (5, 20)
    assert made.tensors()["weight_scale"].shape == (5, 1)


@pytest.mark.parametrize("block", [8, 48, 512, -16])
def test_a_block_that_no_kernel_has_is_refused(block):
    with pytest.raises(OptionError, match="block"):
        Pipeline.parse(f"quantize_weights(block={block})")


# ---- what is quantized ---------------------------------------------------------------------------------------------


class _Products(nn.Module):
    """A linear, and products of each kind with a stored matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(70, 640)
        self.b, self.c = nn.Parameter(torch.randn(640, 96) / 25), nn.Parameter(torch.randn(96, 50) / 10)
        self.bias, self.d = nn.Parameter(torch.randn(50)), nn.Linear(50, 7, bias=False)

    def forward(self, x):
        y = F.relu(F.relu(self.a(x)) @ self.b)
        y = F.relu(torch.addmm(self.bias, y.flatten(0, -2), self.c))
        return self.d(y)


def test_products_with_a_stored_matrix_are_quantized_along_their_inputs():
    torch.manual_seed(0)
    program = _captured(_Products(), 2, 3, 70)
    made, skips = _run(program, "quantize_weights(bits=8)")
    assert not skips
    assert len(list(made.find(GROUPED))) == 4
    assert made.tensors()["b_int8"].shape == (96, 640)
    assert sqnr([program(*program.args)], [made(*program.args)]) > 35


class _Declined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 1)
        self.words = nn.Embedding(9, 32)
        self.left, self.square = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(32, 32))
        self.thin, self.kept, self.good = nn.Linear(1, 32), nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x):
        y = self.left @ self.conv(x)
        y = y + self.words(torch.zeros(4, dtype=torch.int64))
        y = y + y @ self.square.t()
        y = self.good(self.kept(y + self.thin(y[..., :1])))
        return F.linear((y @ y.transpose(1, 2)) @ y, self.words.weight)


def test_every_layer_that_is_left_has_a_reason_and_the_users_line():
    made, skips = _run(_captured(_Declined(), 2, 4, 32), "quantize_weights(keep_float=('kept',))")
    assert [node.args[0].target for node in made.find(GROUPED)] == ["good.weight_int4"]
    for reason in (
        ("aten.conv1d(", "only linears"), ("aten.matmul(%left", "on the left"), ("aten.matmul(", "fold_constants before"),
        ("%thin_weight", "no two inputs"), ("%kept_weight", "keep_float=('kept',)"), ("aten.matmul(", "no stored weight"),
        ("%words_weight", "%embedding reads its weight too"),
    ):  # fmt: skip
        assert any(all(piece in skip for piece in reason) for skip in skips), (reason, skips)
    assert all("test_weight_only.py:" in skip for skip in skips)
    contractions = sum(1 for n in made.find("aten.conv1d", "aten.matmul", "aten.linear"))
    assert len(skips) == contractions - 1


def test_half_precision_stays():
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(32, 4).bfloat16()

        def forward(self, x):
            return self.fc(x.bfloat16()).float()

    made, skips = _run(_captured(Half(), 2, 32))
    assert not any(made.find(GROUPED))
    assert "torch.bfloat16, not float32" in skips[0]


def test_a_weight_of_two_layers_is_stored_once_under_whichever_name():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(F.relu(self.a(x)))

    program = _captured(Tied(), 2, 32)
    made, skips = _run(program, "quantize_weights(bits=8)")
    assert not skips
    assert len(list(made.find(GROUPED))) == 1
    assert [t.dtype for t in made.tensors().values()].count(torch.int8) == 1
    assert sqnr([program(*program.args)], [made(*program.args)]) > 30


def test_a_weight_that_is_read_by_rows_and_by_columns_stays():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.square = nn.Parameter(torch.randn(32, 32))

        def forward(self, x):
            return F.linear(x, self.square) @ self.square

    made, skips = _run(_captured(Both(), 2, 32))
    assert not any(made.find(GROUPED))
    assert len(skips) == 2
    assert all("by rows here and by columns there" in skip for skip in skips)


def test_what_cannot_be_quantized_is_an_error_with_its_place():
    net = nn.Sequential(nn.Linear(32, 4))
    program = _captured(net, 2, 32)
    with pytest.raises(PassError, match=r"quantized already(.|\n)*dequantize_per_channel_group"):
        _run(program, "quantize_weights, quantize_weights")
    with pytest.raises(PassError, match=r"quantized already(.|\n)*dequantize_per_channel_group"):
        _run(program, "quantize_weights, quantize")
    net[0].weight.data[1, 2] = float("nan")
    with pytest.raises(PassError, match=r"'0\.weight' holds NaN or infinity(.|\n)*aten\.linear"):
        Pipeline.parse("quantize_weights").run(_captured(net, 2, 32), watchers=())


def test_a_program_is_saved_and_written_and_read_back(tmp_path):
    made, _ = _run(_captured(nn.Linear(70, 8), 2, 70))
    save_program(made, tmp_path / "made.pt2")
    back = load_program(tmp_path / "made.pt2")
    assert canonical_text(back) == canonical_text(made)
    x = torch.randn(5, 70)
    assert torch.equal(back(x), made(x))
    text = made.text().replace("[batch,", "[4,")
    assert [n.args[3:] for n in parse_program(text).find(GROUPED)] == [n.args[3:] for n in made.find(GROUPED)]


def test_rows_that_pruning_left_ragged_are_quantized_too(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(48, 100), nn.ReLU(), nn.Linear(100, 90), nn.ReLU(), nn.Linear(90, 10))
    program = _captured(net, 4, 48)
    pruned, _ = _run(program, "prune_channels(ratio=0.37)")
    made, _ = _run(program, "prune_channels(ratio=0.37), quantize_weights(bits=8)")
    inputs = [node.meta["val"].shape[1] for node in made.find("aten.slice.Tensor")]
    assert inputs, "no row comes out even"
    assert any(size % 16 for size in inputs)
    x = torch.randn(6, 48)
    assert sqnr([pruned(x)], [made(x)]) > 35
    artifact = _lowered(made, tmp_path)[0]
    np.testing.assert_allclose(artifact([x.numpy()])[0], made(x), rtol=1e-4, atol=1e-5)


# ---- in ONNX Runtime -----------------------------------------------------------------------------------------------


def _lowered(program: Program, out: Path):
    out.mkdir(exist_ok=True)
    backend = Onnx()
    facts = backend.build(Pipeline.parse(backend.legalize()).run(program).program, host(), out)
    return backend.load(out, bare_manifest()), facts


def _optimized(out: Path) -> list[str]:
    """Op types after the runtime's own optimizer, read without fxopt."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(out / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(out / "model.onnx"), options)
    return [node.op_type for node in onnx.load(out / "optimized.onnx").graph.node]


@pytest.mark.parametrize("passes", ["quantize(keep_float=('3',)), {0}", "{0}, quantize"])
def test_what_int8_leaves_in_float_may_have_weights_of_four_bits(passes, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 24))
    program = _captured(net, 4, 3, 6, 6)
    made, skips = _run(program, passes.format("quantize_weights"))
    assert any("its weight is quantized already" in skip for skip in skips)
    assert sqnr([program(*program.args)], [made(*program.args)]) > 15
    run, facts = _lowered(made, tmp_path)
    kinds = _optimized(tmp_path)
    assert (kinds.count("QLinearConv"), kinds.count("MatMulNBits")) == (1, 1)
    assert (facts["integer_contractions"], facts["float_contractions"]) == (2, 0)
    want = made(*program.args).numpy()
    assert np.abs(run([program.args[0].numpy()])[0] - want).max() <= 1e-4 * np.abs(want).max()


@pytest.mark.parametrize(("block", "shape"), [*((b, (2, 3, 70)) for b in (0, 16, 32, 256)), (128, (4, 70))])
def test_four_bits_are_multiplied_as_they_are(block, shape, tmp_path):
    torch.manual_seed(0)
    made, _ = _run(_captured(_Products(), *shape), f"quantize_weights(block={block})")
    run, facts = _lowered(made, tmp_path)
    kinds = _optimized(tmp_path)
    assert kinds.count("MatMulNBits") == 4
    assert not {"Gemm", "MatMul", "DequantizeLinear", "Cast"} & set(kinds)
    assert (facts["integer_contractions"], facts["float_contractions"], facts["dequantized_at_run_time"]) == (4, 0, [])
    for node in onnx.load(tmp_path / "model.onnx").graph.node:
        if node.op_type == "MatMulNBits":
            given = {a.name: a.i for a in node.attribute}
            assert given["accuracy_level"] == 0, "anything else rounds activations to 8 bits"
    for batch in (1, 2, 9):
        x = torch.randn(batch, *shape[1:])
        want = made(x).numpy()
        assert np.abs(run([x.numpy()])[0] - want).max() <= 1e-5 * np.abs(want).max()


def test_eight_bits_are_unpacked_once_as_the_model_is_loaded(tmp_path):
    torch.manual_seed(0)
    made, _ = _run(_captured(_Products(), 2, 3, 70), "quantize_weights(bits=8)")
    run, facts = _lowered(made, tmp_path)
    assert not {"MatMulNBits", "DequantizeLinear", "Cast", "Mul"} & set(_optimized(tmp_path))
    assert facts["dequantized_at_run_time"] == []
    x = torch.randn(5, 3, 70)
    np.testing.assert_allclose(run([x.numpy()])[0], made(x), rtol=1e-4, atol=1e-5)


def test_the_file_shrinks_as_the_codes_do(tmp_path):
    program = _captured(nn.Linear(512, 512), 2, 512)
    sizes = {}
    for passes in ("clean_up", "quantize_weights", "quantize_weights(bits=8)", "quantize_weights(block=0)"):
        made, _ = _run(program, passes)
        _lowered(made, tmp_path / passes)
        sizes[passes] = (tmp_path / passes / "model.onnx").stat().st_size
    whole = sizes["clean_up"]
    assert sizes["quantize_weights"] <= 0.17 * whole, "4 bits, and a float for each 32"
    assert sizes["quantize_weights(bits=8)"] <= 0.3 * whole
    assert sizes["quantize_weights(block=0)"] <= 0.14 * whole


def test_the_same_bytes_each_time(tmp_path):
    made, _ = _run(_captured(_Products(), 4, 70))
    for name in ("a", "b"):
        _lowered(made, tmp_path / name)
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()


def test_a_weight_of_two_layers_is_in_the_file_once(tmp_path):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 64)

        def forward(self, x):
            return self.fc(F.relu(self.fc(x)))

    made, _ = _run(_captured(Twice(), 2, 64))
    run, _ = _lowered(made, tmp_path)
    packed = [i for i in onnx.load(tmp_path / "model.onnx").graph.initializer if i.data_type == onnx.TensorProto.UINT8]
    assert [tuple(i.dims) for i in packed] == [(64, 2, 16)]
    x = torch.randn(3, 64)
    np.testing.assert_allclose(run([x.numpy()])[0], made(x), rtol=1e-4, atol=1e-5)


class _ByHand(nn.Module):
    """Codes in a form that the pass does not write: zero points, blocks of 24, a single row of numbers as input."""

    def __init__(self, size: int, shifted: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("codes", torch.randint(-8, 8, (40, 96), dtype=torch.int8, generator=generator))
        self.register_buffer("scales", torch.rand(40, 96 // size, generator=generator))
        shift = torch.randint(-8, 8, (40, 96 // size), dtype=torch.int32, generator=generator)
        self.register_buffer("shift", shift if shifted else None)
        self.size = size

    def forward(self, x):
        op = torch.ops.quantized_decomposed.dequantize_per_channel_group
        weight = op(self.codes, self.scales, self.shift, -8, 7, torch.int8, self.size, torch.float32)
        weight = torch.ops.aten.slice.Tensor(weight, 1, 0, 70)
        return F.linear(x, weight), F.linear(x[0], weight), torch.addmm(x[:, :40], x, weight.transpose(0, 1), beta=0.5)


@pytest.mark.parametrize(
    ("size", "shifted", "kernels"), [(32, False, 1), (32, True, 0), (24, False, 0), (48, False, 1)]
)
def test_what_the_kernel_does_not_take_is_computed_all_the_same(size, shifted, kernels, tmp_path):
    program = _captured(_ByHand(size, shifted), 3, 70)
    run, _ = _lowered(program, tmp_path)
    kinds = _optimized(tmp_path)
    assert kinds.count("MatMulNBits") == kernels
    assert "Cast" not in kinds
    x = torch.randn(5, 70)
    for got, want in zip(run([x.numpy()]), program(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


def test_a_backend_that_has_no_such_op_says_so(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "plugin"), *sys.path])
    from fxopt_example.numpy_backend import Numpy

    made, _ = _run(_captured(nn.Linear(32, 4), 2, 32))
    (node,) = made.find(GROUPED)
    assert "numpy backend has only" in Numpy().refuses(node)
    assert Onnx().refuses(node) is None
