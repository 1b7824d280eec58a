"""The ONNX backend: what is in the file, which kernels run it, and the same bytes every time."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from cases.manifests import built_alone
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, capture, load, save_program
from fxopt.backend import check_lowerable
from fxopt.backend.kernel_time import NODES
from fxopt.backend.quant_policy import Policy
from fxopt.backends.onnx import Onnx, file
from fxopt.driver.artifact_check import Fidelity
from fxopt.driver.build import build
from fxopt.driver.lower import lower
from fxopt.driver.recipe import Recipe
from fxopt.errors import BackendError, ResourceError, UsageError
from fxopt.ir.alias_analysis import written
from fxopt.numerics.error_metrics import sqnr
from fxopt.runtime.artifact import Artifact
from fxopt.runtime.timing import Timing
from fxopt.target.detect import host
from fxopt.testing import small_workload
from fxopt.workload import find_workload


def _lower(program: Program, out: Path, backend: Onnx | None = None) -> tuple[Artifact, dict]:
    return built_alone(program, backend or Onnx(), out)


def _quantized(program: Program, backend: Onnx | None = None) -> Program:
    where = {"workload": small_workload(program), "target": host(), "backend": backend or Onnx()}
    return Pipeline.parse("quantize").run(program, watchers=(), **where).program


class _Conv(nn.Module):
    """Everything that has an integer kernel beside a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point, self.wide = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = F.relu(self.stem(x))
        z = F.relu6(self.deep(y))
        y = F.relu(self.point(z) + y)
        y = torch.cat([F.max_pool2d(y, 2), F.avg_pool2d(z, 2)], 1)
        y = F.silu(self.wide(y))
        return self.head(y.mean((2, 3)))


@pytest.fixture
def conv() -> Program:
    torch.manual_seed(0)
    return capture(_Conv().eval(), (torch.randn(2, 3, 8, 8),))


# ---- the file ------------------------------------------------------------------------------------------------------


def test_the_file_keeps_names_types_and_the_dynamic_batch(tmp_path):
    class Net(nn.Module):
        def forward(self, image, *, extra):
            return {"mean": image.mean(1), "count": extra["k"] + 1}

    image, extra = torch.randn(2, 3, 4), {"k": torch.ones(2, 5, dtype=torch.int64)}
    _lower(capture(Net(), (image,), {"extra": extra}), tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    told = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in [*model.graph.input, *model.graph.output]
    }
    assert told == {
        "image": ["batch", 3, 4], "extra_k": ["batch", 5], "output_0": ["batch", 4], "output_1": ["batch", 5],
    }  # fmt: skip
    assert model.opset_import[0].version == 20


def test_the_file_holds_no_path_of_the_machine_that_built_it(conv, tmp_path):
    _lower(_quantized(conv), tmp_path)
    data = (tmp_path / "model.onnx").read_bytes()
    assert str(Path.cwd()).encode() not in data
    assert b"test_onnx.py" not in data
    assert b"site-packages" not in data


@pytest.mark.slow
def test_the_same_bytes_whatever_the_hash_seed(tmp_path):
    """Sets of names come in another order in every process."""
    code = "import sys; from fxopt.driver.build import build; from fxopt.driver.recipe import Recipe;"
    code += "build(Recipe('digits', ('clean_up, quantize(images=4)',)), sys.argv[1], measure=False)"
    digests = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], env=env, check=True)
        digests.append(json.loads((tmp_path / seed / "manifest.json").read_text())["files"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("rows", [-1, 64], ids=["batch", "batch and parts"])
def test_a_size_that_a_reshape_infers_is_computed_from_that_of_the_input(tmp_path, rows):
    """torch computes it from the number of elements, of which ONNX has no operator."""

    class Patches(nn.Module):
        def forward(self, x):
            turned = torch.einsum("nhwpqc->nchpwq", x.reshape(-1, 4, 4, 2, 2, 4))
            return (
                turned.reshape(-1, 4, 8, 8) if rows == -1 else turned.reshape(-1, rows).relu().reshape(-1, 2, 2 * rows)
            )

    built, _ = _lower(capture(Patches(), (torch.randn(2, 16, 16),)), tmp_path)
    x = torch.randn(3, 16, 16)
    assert torch.equal(torch.as_tensor(built(x.numpy())), Patches()(x))


@pytest.mark.parametrize("name", ["fft", "fft2", "rfft", "irfft"])
def test_a_fourier_transform_keeps_the_dynamic_batch(tmp_path, name):
    """torch decomposes it in C++, which reads sizes as numbers, unless it is told not to."""

    class Spectrum(nn.Module):
        def forward(self, x):
            transformed = getattr(torch.fft, name)(torch.complex(x, x.flip(1)) if name == "irfft" else x)
            return torch.view_as_real(transformed) if transformed.is_complex() else transformed

    built, _ = _lower(capture(Spectrum(), (torch.randn(2, 8, 6),)), tmp_path)
    x = torch.randn(3, 8, 6)
    assert sqnr([Spectrum()(x)], [torch.as_tensor(built(x.numpy()))]) > 100


@pytest.mark.parametrize("options", [{}, {"weights": "uint8"}], ids=str)
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "int8"])
def test_weights_too_large_for_one_message_go_beside_it(conv, tmp_path, monkeypatch, quantized, options):
    """They are written one at a time, and the file computes what one with all of them inside does."""
    backend = Onnx(**options)
    program = _quantized(conv, backend) if quantized else conv
    (tmp_path / "whole").mkdir()
    whole, _ = _lower(program, tmp_path / "whole", backend)
    monkeypatch.setattr(file, "MOST_BYTES", 300)
    monkeypatch.setattr(file, "LEAST_BYTES_BESIDE", 100)
    (tmp_path / "apart").mkdir()
    apart, _ = _lower(program, tmp_path / "apart", backend)
    assert (tmp_path / "apart" / "model.onnx.data").stat().st_size > 300
    stored = onnx.load(tmp_path / "apart" / "model.onnx", load_external_data=False).graph.initializer
    assert any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in stored)
    x = torch.randn(3, 3, 8, 8).numpy()
    assert np.array_equal(apart(x), whole(x))
    assert apart.manifest.facts["nodes"] == whole.manifest.facts["nodes"]


def test_no_room_for_weights_beside_the_file_names_the_disk(tmp_path, monkeypatch):
    """The writer removes what it wrote, so that there is room again when the error is looked at."""

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file, "MOST_BYTES", 300)
    monkeypatch.setattr("onnx_ir.external_data.unload_from_model", full)
    save_program(capture(nn.Linear(16, 16), (torch.randn(1, 16),)), tmp_path / "net.pt2")
    (tmp_path / "out").mkdir()
    with pytest.raises(ResourceError, match=r"model\.onnx\.data.*the disk at /") as caught:
        build(Recipe(str(tmp_path / "net.pt2"), ("clean_up",)), tmp_path / "out" / "net", measure=False, cache=False)
    assert caught.value.exit_code == 4
    assert not list((tmp_path / "out").iterdir())


def test_a_mean_is_a_pool_only_over_height_and_width(tmp_path):
    class Means(nn.Module):
        def forward(self, x):
            return (
                x.mean((2, 3)), (2 * x).mean((-1, -2), keepdim=True), x.mean((1, 2)), x.mean(3), x.mean(), x.flatten(2).mean(2),
            )  # fmt: skip

    program = capture(Means(), (torch.randn(2, 3, 4, 5),))
    artifact, _ = _lower(program, tmp_path)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert (kinds.count("GlobalAveragePool"), kinds.count("ReduceMean")) == (2, 4)
    x = torch.randn(3, 3, 4, 5)
    for want, got in zip(program(x), artifact(x.numpy()), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_an_op_without_an_onnx_form_is_refused_before_the_build_with_its_line():
    class Net(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x).abs()

    program = capture(Net(), (torch.randn(2, 3, 3),))
    (node,) = program.find("aten.linalg_eigvals")
    assert "no ONNX form" in Onnx().refuses(node)
    with pytest.raises(BackendError, match=r"aten\.linalg_eigvals(.|\n)*test_onnx\.py:\d+"):
        check_lowerable(Onnx(), program)


class _Named(nn.Module):
    """Weights called as nodes and an input are, and ops without an ONNX form of their own: batch norm, a pool to two cells."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.mul = nn.Parameter(torch.randn(3, 1, 1)), nn.Parameter(torch.randn(3, 1, 1))
        self.norm, self.x = nn.BatchNorm2d(3), nn.Parameter(torch.randn(()))

    def forward(self, x):
        y = torch.relu(self.norm(x) * self.mul + self.x) + self.relu
        return F.adaptive_avg_pool2d(torch.sigmoid(y), 2).flatten(1)


def test_values_have_the_names_of_the_programs_nodes(tmp_path):
    program = capture(_Named().eval(), (torch.randn(2, 3, 4, 5),))
    artifact, facts = _lower(program, tmp_path)
    legal = Pipeline.parse(Onnx().legalize()).run(program).program
    model = onnx.load(tmp_path / "model.onnx")
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    assert {"relu", "mul", "norm.weight"} <= {tensor.name for tensor in model.graph.initializer}
    kinds = {"Sigmoid": "aten.sigmoid", "Relu": "aten.relu"}
    for kind, op in kinds.items():
        (name,) = (name for name, found in made.items() if found == kind)
        (node,) = legal.find(op)
        assert name.removesuffix("_value") == node.name, "a weight may have the node's name"
        assert facts[NODES][name] == node.name
    x = torch.randn(3, 3, 4, 5)
    np.testing.assert_allclose(artifact(x.numpy()), program(x), rtol=1e-5, atol=1e-6)


# ---- integer kernels -----------------------------------------------------------------------------------------------


def _optimized(path: Path) -> list[str]:
    """Op types after the runtime's own optimizer, read without fxopt."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path.with_name("optimized.onnx"))
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options)
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def test_every_layer_of_a_quantized_net_runs_in_integers(conv, tmp_path):
    _, facts = _lower(_quantized(conv), tmp_path)
    kinds = _optimized(tmp_path / "model.onnx")
    assert kinds.count("QLinearConv") == 4
    assert kinds.count("QGemm") == 1
    assert not {"Conv", "FusedConv", "Gemm", "MatMul", "ReduceMean", "Relu", "Clip"} & set(kinds)
    assert facts["integer_contractions"] == 5
    assert facts["float_contractions"] == 0
    assert facts["dequantized_at_run_time"] == []
    assert {"QLinearAdd", "QLinearConcat", "QLinearSigmoid", "QLinearMul", "QLinearGlobalAveragePool"} <= set(kinds)
    assert len(facts["integer_nodes"]) == sum(kind.startswith("QLinear") for kind in kinds) + 2, (
        "QGemm and the max pool"
    )


def test_a_layer_that_the_runtime_leaves_in_float_is_named_with_its_line(conv, tmp_path):
    """Without Q/DQ at its output a convolution falls back to float, and its weight is dequantized at every run."""

    class Halfway(Onnx):
        def quant_policy(self, target):
            return Policy(convolution_output="never")

    _, facts = _lower(_quantized(conv, Halfway()), tmp_path)
    kinds = _optimized(tmp_path / "model.onnx")
    assert "QLinearConv" not in kinds
    assert facts["float_contractions"] == sum(kind in ("Conv", "FusedConv") for kind in kinds) == 4
    assert len(facts["dequantized_at_run_time"]) == 4
    assert all("Conv" in place and "test_onnx.py:" in place for place in facts["dequantized_at_run_time"])


def test_a_linear_with_a_bias_needs_it_in_integers_too(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4, bias=False))
    _, facts = _lower(_quantized(capture(net.eval(), (torch.randn(2, 16),))), tmp_path)
    assert (facts["integer_contractions"], facts["dequantized_at_run_time"]) == (2, [])
    _, facts = _lower(_quantized(capture(net.eval(), (torch.randn(2, 7, 16),))), tmp_path)
    assert (facts["integer_contractions"], facts["dequantized_at_run_time"]) == (2, [])


@pytest.mark.parametrize("name", ["digits", pytest.param("glyphs", marks=pytest.mark.slow)])
def test_int8_agrees_with_eager_within_one_output_step(name, tmp_path):
    workload = find_workload(name)
    program = workload.capture()
    where = {"workload": workload, "target": host(), "backend": Onnx()}
    quantized = Pipeline.parse("quantize").run(program, watchers=(), **where).program
    artifact, facts = _lower(quantized, tmp_path)
    assert facts["float_contractions"] == 0
    ((images,), _) = next(workload.data.batches("test", batch_size=300))
    want, got = quantized(images), torch.from_numpy(artifact(images.numpy()))
    step = (want.max() - want.min()) / 255
    assert ((got - want).abs() <= step).float().mean() >= 0.999


def test_int8_agrees_with_eager_within_one_output_step_at_a_convolution(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1)).eval()
    quantized = _quantized(capture(net, (torch.randn(2, 3, 16, 16),)))
    artifact, _ = _lower(quantized, tmp_path)
    x = torch.randn(16, 3, 16, 16)
    steps = (torch.from_numpy(artifact(x.numpy())) - quantized(x)).abs() / quantized.outputs()[0].args[1]
    assert (steps <= 1.001).float().mean() >= 0.999


# ---- running -------------------------------------------------------------------------------------------------------


def test_the_runtime_gets_the_options_of_the_backend(conv, tmp_path, monkeypatch):
    manifest = _lower(conv, tmp_path)[0].manifest
    seen = []
    original = ort.InferenceSession

    def spy(path, options, providers, **more):
        seen.append((options.intra_op_num_threads, options.graph_optimization_level, options.enable_cpu_mem_arena))
        return original(path, options, providers, **more)

    monkeypatch.setattr(ort, "InferenceSession", spy)
    Onnx(threads=1, optimization_level="basic", arena=False).load(tmp_path, manifest)
    assert seen == [(1, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC, False)]


def test_a_damaged_model_is_an_error_of_the_backend(conv, tmp_path):
    manifest = _lower(conv, tmp_path)[0].manifest
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07nonsense")
    with pytest.raises(BackendError, match=r"cannot load .*model\.onnx"):
        Onnx().load(tmp_path, manifest)


def test_inputs_the_runtime_refuses_are_an_error_of_the_user(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.view(2, -1).sum(1)

    artifact, _ = _lower(capture(Fixed(), (torch.randn(4, 3),), dynamic=None), tmp_path)
    with pytest.raises(UsageError, match="x"):
        artifact(np.zeros((5, 3), np.float32))


@pytest.mark.parametrize(("quick", "kept"), [(0.5, False), (0.999, True)])
def test_tuning_takes_other_options_only_where_they_win_clearly(conv, monkeypatch, quick, kept):
    given = Onnx(threads=1)
    fast = dataclasses.replace(given, arena=False)

    def timed(runs, *, blocks, block_ms):
        for run in runs.values():
            run()
        assert len(runs) >= 4
        times = dict.fromkeys(runs, (1.0, 0.9, 1.1, 1.0, 1.05))
        times[str(fast)] = tuple(quick * n for n in (1.0, 1.1, 0.9, 1.05, 1.0))
        return {name: Timing(values) for name, values in times.items()}

    monkeypatch.setattr("fxopt.runtime.timing.interleave", timed)
    assert given.tune(conv, host(), 0.1) == (given if kept else fast)


@pytest.mark.slow
def test_a_tuned_build_remembers_its_options(tmp_path):
    report = build(Recipe("digits", ("fold_batch_norm",)), tmp_path / "out", measure=False, tune_seconds=0.5)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["backend"] == report.backend["text"]
    assert load(tmp_path / "out").random_inputs()


# 8, 3, 2, 1 is not here with counted padding: ONNX has no form for that beside a border that is not counted
@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), [(7, 2, 2, 0), (5, 2, 3, 0), (5, 2, 2, 1)])
def test_windows_that_reach_over_the_border_are_averaged_as_torch_does(
    size, kernel, stride, padding, counted, tmp_path
):
    torch.manual_seed(0)
    pool = nn.AvgPool2d(kernel, stride, padding, ceil_mode=True, count_include_pad=counted)
    program = capture(
        nn.Sequential(nn.Conv2d(3, 8, 1), pool, nn.Conv2d(8, 4, 1)).eval(), (torch.randn(2, 3, size, size + 1),)
    )
    x = torch.randn(3, 3, size, size + 1)
    for made in (program, _quantized(program)):
        artifact, _ = _lower(made, tmp_path)
        assert sqnr([made(x)], [torch.from_numpy(artifact(x.numpy()))]) > 60


def test_a_layer_kept_in_float_stays_in_float(conv, tmp_path):
    where = {"workload": small_workload(conv), "target": host(), "backend": Onnx()}
    passes = Pipeline.parse("quantize(keep_float=('point', 'head'))")
    kept = passes.run(conv, watchers=(), **where).program
    artifact, facts = _lower(kept, tmp_path)
    assert (facts["integer_contractions"], facts["float_contractions"]) == (3, 2)
    x = torch.randn(4, 3, 8, 8)
    assert sqnr([kept(x)], [torch.from_numpy(artifact(x.numpy()))]) > 60


def test_what_the_runtime_has_no_kernel_for_is_an_error_of_the_backend(tmp_path):
    class Half(nn.Module):
        def forward(self, x):
            return (x.bfloat16() @ x.bfloat16().mT).float()

    with pytest.raises(BackendError, match=r"cannot load model\.onnx(.|\n)*\.float\(\)"):
        _lower(capture(Half(), (torch.randn(2, 3, 3),)), tmp_path)


@pytest.mark.parametrize("how", ["autocast", "cast"])
def test_bfloat16_is_refused_before_the_build_with_the_line(how):
    class Half(nn.Module):
        def forward(self, x):
            if how == "cast":
                return x.bfloat16().relu().float()
            with torch.autocast("cpu", torch.bfloat16):
                return x @ x.mT

    with pytest.raises(BackendError, match=r"in bfloat16|for bfloat16") as told:
        check_lowerable(Onnx(), capture(Half(), (torch.randn(2, 3, 3),)))
    assert "test_onnx.py" in str(told.value)
    assert "backend openvino" in str(told.value)


def test_outputs_that_are_constants_or_share_a_name_with_an_input(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.arange(3.0))

        def forward(self, output_0):
            return self.table, output_0 * 2

    artifact, _ = _lower(capture(Net(), (torch.randn(2, 3),)), tmp_path)
    table, doubled = artifact(np.ones((2, 3), np.float32))
    assert table.tolist() == [0, 1, 2]
    assert (doubled == 2).all()


def test_an_average_with_a_divisor_of_its_own_is_refused():
    program = capture(nn.AvgPool2d(2, divisor_override=3), (torch.randn(2, 3, 4, 4),))
    (node,) = program.find("aten.avg_pool2d")
    assert "divisor_override" in Onnx().refuses(node)


def test_writes_into_slices_run_in_onnx_runtime(tmp_path):
    class Writes(nn.Module):
        def forward(self, x):
            y = x.exp()
            y[:, 1:, 2:] += x.cos()[:, 1:, 2:]
            return y.softmax(-1)

    x = torch.randn(2, 4, 5)
    _, built = lower(capture(Writes(), (x,)), Onnx(), host(), tmp_path)
    np.testing.assert_allclose(built(x.numpy()), Writes()(x).numpy(), rtol=1e-5)


class _IntoIndices(nn.Module):
    """Writes single indices of a state that it makes, as recurrent language models do."""

    def forward(self, x):
        state = torch.zeros(x.shape[0], 4, 3, dtype=x.dtype)
        state[:, :, 1] = x
        state[:, 0] = 1
        state[:, 1:3, 2].copy_(x[:, :2])
        return state * 2


class _IntoInput(nn.Module):
    def forward(self, x, state):
        state[:, :, 0] = x
        return state + 1


def test_writes_to_an_index_of_a_tensor_that_the_model_makes(tmp_path):
    x = torch.randn(2, 4)
    legal, artifact = lower(capture(_IntoIndices(), (x,)), Onnx(), host(), tmp_path)
    assert not [node for node in legal.graph.nodes if written(node)]
    assert np.array_equal(artifact(x.numpy()), _IntoIndices()(x).numpy())


def test_a_write_into_an_input_is_refused_with_what_to_write_instead(tmp_path):
    program = capture(_IntoInput(), (torch.randn(2, 4), torch.randn(2, 4, 3)))
    with pytest.raises(BackendError, match="clone of the input"):
        lower(program, Onnx(), host(), tmp_path)


def test_a_file_that_holds_the_examples_batch_is_the_builds_fault(tmp_path):
    """Its runner refuses another batch, as ONNX Runtime does where a Reshape holds the example's."""
    program = capture(nn.Linear(4, 3), (torch.randn(2, 4),))
    artifact, _ = built_alone(program, Onnx(), tmp_path)
    run = artifact.runner

    def fixed(arrays):
        if len(arrays[0]) != 2:
            raise UsageError("ONNX Runtime refused the inputs: requested shape {2,4}")
        return run(arrays)

    with pytest.raises(BackendError, match=r"does not run on inputs of \[3, 4\], which the program takes"):
        Fidelity(program).check(Artifact(tmp_path, artifact.manifest, fixed))


def test_ops_that_are_defined_after_a_first_export_are_known_to_the_next():
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    code = """
import torch
from fxopt.backends.onnx.registry import registry_of
before = registry_of(20)
assert not any("torchvision" in str(op) for op in before.functions), "or this shows nothing"
from fxopt.models.vision_import import import_torchvision
import_torchvision()
assert registry_of(20).is_registered(torch.ops.torchvision.nms.default)
assert registry_of(20) is registry_of(20)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class Branches(nn.Module):
    """Two layers, of which the inputs choose one: what a branch reads is stored outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: self.a(x).relu(), lambda x: self.b(x).tanh(), (x,))


def test_weights_that_branches_read_stay_in_the_file(tmp_path):
    net, x = Branches().eval(), torch.rand(2, 4)
    artifact, _ = _lower(capture(net, (x,)), tmp_path)
    for given in (x, -x):
        np.testing.assert_allclose(artifact(given.numpy()), net(given).detach().numpy(), atol=1e-6)
    branches = [a.g for n in onnx.load(tmp_path / "model.onnx").graph.node for a in n.attribute if a.g.node]
    assert len(branches) == 2
    assert not any(node.metadata_props or node.doc_string for graph in branches for node in graph.node)
