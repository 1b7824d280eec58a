"""The OpenVINO backend: the numbers of eager, integer kernels where they were asked for, and loading without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from cases.manifests import bare_manifest, built_alone
from torch import fx, nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, capture
from fxopt.backend import check_lowerable, find_backend
from fxopt.backends.openvino import Openvino
from fxopt.backends.openvino.runtime import MODEL_FILE, compile_model, make_runner, native_precisions
from fxopt.driver.build import build
from fxopt.driver.recipe import Recipe
from fxopt.errors import BackendError, OptionError, UnknownNameError, UsageError
from fxopt.numerics.error_metrics import relative_error, sqnr
from fxopt.runtime.artifact import Artifact
from fxopt.target import Target
from fxopt.target.detect import host
from fxopt.testing import small_workload
from fxopt.workload import find_workload

openvino = pytest.importorskip("openvino", reason="needs the extra 'openvino': pip install 'fxopt[openvino]'")


def _lower(program: Program, out: Path, backend: Openvino | None = None) -> tuple[Artifact, dict]:
    return built_alone(program, backend or Openvino(), out)


def _quantized(program: Program, options: str = "") -> Program:
    where = {"workload": small_workload(program), "target": host(), "backend": Openvino()}
    return Pipeline.parse(f"quantize{options}").run(program, watchers=(), **where).program


def _without_activation_codes(program: Program) -> Program:
    """Weights stay stored in integers, activations are left in float."""
    copy = program.copy()
    for node in copy.find("quantized_decomposed.dequantize_per_tensor"):
        copy.replace(node, node.args[0].args[0])
    copy.module.recompile()
    return copy


class _Conv(nn.Module):
    """Convolutions of each kind, a residual, a concatenation, pools, silu and a linear head."""

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


@pytest.fixture(scope="module")
def conv() -> Program:
    torch.manual_seed(0)
    return capture(_Conv().eval(), (torch.randn(2, 3, 8, 8),))


@pytest.fixture(scope="module")
def quantized(conv) -> Program:
    return _quantized(conv)


@pytest.fixture(scope="module")
def built(quantized, tmp_path_factory) -> tuple[Artifact, dict]:
    return _lower(quantized, tmp_path_factory.mktemp("int8"))


@pytest.fixture(scope="module")
def in_float(conv, tmp_path_factory) -> tuple[Artifact, dict]:
    return _lower(conv, tmp_path_factory.mktemp("float"))


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_float_agrees_with_eager_in_every_batch_size(conv, in_float):
    artifact, facts = in_float
    assert facts["precisions"] == {"f32": 5}
    assert facts["dequantized_at_run_time"] == []
    for size in (1, 2, 7):
        x = torch.randn(size, 3, 8, 8)
        assert relative_error(conv(x), torch.from_numpy(artifact(x.numpy()))) < 1e-5


def test_inputs_and_outputs_of_every_kind_keep_their_order_and_dtype(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.arange(3))

        def forward(self, x, unused, *, scale, keep, output_0):
            return x, self.table, x * scale, keep.logical_not(), output_0 * 2, x.relu(), x.relu()

    x = torch.randn(2, 3)
    named = {"scale": torch.tensor(0.5), "keep": torch.tensor([True, False]), "output_0": torch.tensor([2**29, -3])}
    program = capture(Net(), (x, torch.randn(2, 4)), named)
    artifact, _ = _lower(program, tmp_path)
    got = artifact(x.numpy(), np.zeros((2, 4), np.float32), **{k: v.numpy() for k, v in named.items()})
    for want, have in zip(program(x, torch.zeros(2, 4), **named), got, strict=True):
        assert have.dtype == want.numpy().dtype
        np.testing.assert_array_equal(have, want)
    kept = got[0].copy()
    artifact(-x.numpy(), np.zeros((2, 4), np.float32), **{k: v.numpy() for k, v in named.items()})
    np.testing.assert_array_equal(got[0], kept, err_msg="a later call wrote into the outputs of an earlier one")


def test_int8_agrees_with_eager_far_within_what_quantization_changed(conv, quantized, built):
    artifact, _ = built
    x = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(0))  # of 16, one tie takes them
    got = [torch.from_numpy(artifact(x.numpy()))]
    assert sqnr([quantized(x)], got) > sqnr([conv(x)], [quantized(x)]) + 20


@pytest.mark.parametrize("reader", ["an output", "in float", "in both"])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv1d, "depthwise"], ids=["2d", "1d", "depthwise"])
def test_a_convolution_without_bias_that_is_read_twice_keeps_its_numbers(kind, reader, tmp_path):
    """OpenVINO quantizes other numbers than such a convolution gives."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            make = nn.Conv1d if kind is nn.Conv1d else nn.Conv2d
            self.first = make(8, 16, 3, bias=False, groups=8 if kind == "depthwise" else 1)
            self.second, self.third = make(16, 4, 1), make(16, 4, 1)

        def forward(self, x):
            x = self.first(x)
            beside = {"an output": x, "in float": x.sigmoid(), "in both": self.third(x.sigmoid())}
            return self.second(x), beside[reader]

    torch.manual_seed(0)
    x = torch.randn(2, 8, 9) if kind is nn.Conv1d else torch.randn(2, 8, 9, 9)
    program = _quantized(capture(Twice().eval(), (x,)), "(correct_bias='none')")
    artifact, _ = _lower(program, tmp_path)
    for want, got in zip(program(x), artifact(x.numpy()), strict=True):
        assert sqnr([want], [torch.from_numpy(got)]) > 40


def test_weights_in_integers_beside_activations_in_float_keep_the_numbers(quantized, tmp_path):
    """OpenVINO would round the activations too if its dynamic quantization were left on: 40 dB."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32)).eval()
    program = _without_activation_codes(_quantized(capture(net, (torch.randn(2, 64),))))
    artifact, facts = _lower(program, tmp_path)
    x = torch.randn(16, 64)
    assert sqnr([program(x)], [torch.from_numpy(artifact(x.numpy()))]) > 90
    assert facts["precisions"] == {"f32": 2}
    assert len(facts["dequantized_at_run_time"]) == 2


# ---- integer kernels -----------------------------------------------------------------------------------------------


def test_every_layer_of_a_quantized_net_runs_in_integers(built):
    artifact, facts = built
    told = openvino.Core().compile_model(artifact.folder / MODEL_FILE, "CPU").get_runtime_model().get_ordered_ops()
    kinds = [
        (node.get_rt_info()["layerType"].astype(str), node.get_rt_info()["primitiveType"].astype(str)) for node in told
    ]
    layers = [primitive for kind, primitive in kinds if kind in ("Convolution", "FullyConnected", "MatMul")]
    assert len(layers) == 5
    assert all(primitive.endswith("_I8") for primitive in layers)
    assert (facts["integer_contractions"], facts["float_contractions"]) == (5, 0)
    assert facts["dequantized_at_run_time"] == []


def test_a_layer_that_the_runtime_leaves_in_float_is_named_with_its_line(quantized, tmp_path):
    _, facts = _lower(_without_activation_codes(quantized), tmp_path)
    assert (facts["integer_contractions"], facts["float_contractions"]) == (0, 5)
    places = facts["dequantized_at_run_time"]
    assert [place.split()[0] for place in places] == ["Conv"] * 4 + ["Gemm"]
    assert all("test_openvino.py:" in place and "stored in i8 and it computes in f32" in place for place in places)


def test_a_layer_kept_in_float_stays_in_float(conv, tmp_path):
    _, facts = _lower(_quantized(conv, "(keep_float=('point', 'head'))"), tmp_path)
    assert facts["precisions"] == {"f32": 2, "i8": 3}
    assert facts["dequantized_at_run_time"] == []


class _Residual(nn.Module):
    """A residual block with relu, and one with silu."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("stem", "first", "second", "gate", "third", "head"):
            setattr(self, name, nn.Conv2d(3 if name == "stem" else 8, 8, 3, padding=1))

    def forward(self, x):
        y = F.relu(self.stem(x))
        y = F.relu(self.second(F.relu(self.first(y))) + y)
        y = self.third(F.silu(self.gate(y))) + y
        return self.head(y)


def test_bytes_flow_through_residual_sums_and_not_into_silu(tmp_path):
    """Whatever is left of quantize ops in the compiled model runs by itself: that of the input, and that behind silu."""
    torch.manual_seed(0)
    program = _quantized(capture(_Residual().eval(), (torch.randn(1, 3, 16, 16),)))
    sources = {node.args[0].name for node in program.find("quantized_decomposed.quantize_per_tensor")}
    assert sources == {"x", "relu", "relu_1", "conv2d_2", "relu_2", "mul_tensor", "conv2d_4", "add_1"}
    assert "conv2d_5" in {node.name for node in program.graph.output_node().all_input_nodes}, "floats are given back"
    artifact, facts = _lower(program, tmp_path)
    told = openvino.Core().compile_model(artifact.folder / MODEL_FILE, "CPU").get_runtime_model().get_ordered_ops()
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in told]
    assert facts["integer_contractions"] == 6
    assert kinds.count("Eltwise") == 0, "sums and silu are part of the convolutions"
    assert kinds.count("FakeQuantize") == 1, "only the input is quantized by a node of its own"


def test_attention_is_counted_in_float_beside_its_integer_linears(tmp_path):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16, bias=False)

        def forward(self, x):
            q, k, v = self.qkv(self.norm(x)).view(x.shape[0], -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
            return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))

    torch.manual_seed(0)
    _, facts = _lower(_quantized(capture(Attention().eval(), (torch.randn(2, 7, 16),))), tmp_path)
    assert facts["precisions"] == {"f32": 2, "i8": 2}


class _Chunked(nn.Module):
    """Attention whose query, key and value are chunks of one linear, each an output of one split."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out((q @ k.transpose(-1, -2)).softmax(-1) @ v)


def test_products_of_the_outputs_of_a_split_are_counted(tmp_path):
    torch.manual_seed(0)
    program = _quantized(capture(_Chunked().eval(), (torch.randn(2, 5, 8),)))
    _, facts = _lower(program, tmp_path)
    assert (facts["integer_contractions"], facts["float_contractions"]) == (2, 2)
    assert facts["dequantized_at_run_time"] == []


def test_weights_are_bounded_where_the_kernels_would_overflow():
    old = Target("old", "x86_64-linux-gnu", features=frozenset({"avx2"}))
    new = Target("new", "x86_64-linux-gnu", features=frozenset({"avx2", "avx512-vnni"}))
    assert [Openvino().quant_policy(target).pairs_in_16_bits for target in (old, new)] == [True, False]


# ---- the artifact --------------------------------------------------------------------------------------------------

_WITHOUT = """
import sys
for name in ("torch", "onnx", "onnxscript", "onnxruntime"):
    sys.modules[name] = None
import numpy as np
import fxopt
np.save(sys.argv[3], fxopt.load(sys.argv[1])(np.load(sys.argv[2])))
"""


@pytest.mark.slow
def test_digits_in_int8_from_the_recipe_to_a_process_that_has_openvino_only(tmp_path):
    recipe = Recipe("digits", ("clean_up, quantize(images=32)",), backend="openvino")
    report = build(recipe, tmp_path / "digits", measure=False)
    assert report.backend["float_contractions"] == 0
    assert report.after.metric > report.before.metric - 0.01
    workload = find_workload("digits")
    ((images,), labels) = next(workload.data.batches("test", batch_size=300))
    np.save(tmp_path / "images.npy", images.numpy())
    argv = [str(tmp_path / name) for name in ("digits", "images.npy", "scores.npy")]
    done = subprocess.run([sys.executable, "-c", _WITHOUT, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    hits = torch.from_numpy(np.load(tmp_path / "scores.npy")).argmax(1) == labels
    assert hits.float().mean() > 0.95


def test_the_model_keeps_its_weights_whole_and_holds_no_path_of_the_machine(conv, built, in_float):
    folder = built[0].folder
    assert sorted(os.listdir(folder)) == ["model.bin", "model.xml"]
    text = (folder / MODEL_FILE).read_text()
    assert str(Path.cwd()) not in text
    assert "test_openvino.py" not in text
    stem = dict(conv.module.named_parameters())["stem.weight"].detach().numpy()
    assert stem.tobytes() in (in_float[0].folder / "model.bin").read_bytes()


def test_the_file_says_in_as_few_layers_as_openvino_has_for_it(quantized, built):
    """A value that is quantized is one layer, a weight its codes, a cast and a scale; nothing computes shapes or zeros."""
    layers = ElementTree.parse(built[0].folder / MODEL_FILE).findall("./layers/layer")
    kinds = Counter(layer.get("type") for layer in layers)
    weights = len(list(quantized.find("aten.conv2d", "aten.linear")))
    assert kinds["FakeQuantize"] == len(list(quantized.find("quantized_decomposed.quantize_per_tensor")))
    assert kinds["Convert"] == kinds["Multiply"] == weights
    assert not kinds.keys() & {"Subtract", "ShapeOf", "Broadcast", "VariadicSplit"}
    stored = [part for layer in layers for part in layer.iterfind("data") if layer.get("type") == "Const"]
    by_dtype = Counter(part.get("element_type") for part in stored)
    assert (by_dtype["i8"], by_dtype["i32"]) == (weights, 0), "weights in codes, biases as they are added"


def test_what_a_small_constant_is_expanded_to_is_not_stored(tmp_path):
    """Converters compute what depends on constants alone, whatever it takes: here 4 MB from 4 kB, and 2 MB from nothing."""

    class Expands(nn.Module):
        def __init__(self):
            super().__init__()
            self.row, self.tied = nn.Parameter(torch.randn(1024)), nn.Parameter(torch.randn(16, 512))

        def forward(self, x, tokens):
            words = F.embedding(tokens, self.tied)
            return x * self.row.expand(512, 1024) + torch.ones(512, 1024).tril(), words @ self.tied.T

    args = (torch.randn(1, 512, 1024), torch.tensor([[3, 1]]))
    net = Expands().eval()
    artifact, _ = _lower(capture(net, args), tmp_path)
    assert (tmp_path / "model.bin").stat().st_size < 4 * (1024 + 16 * 512) + 1024
    for want, got in zip(net(*args), artifact(*args), strict=True):
        assert relative_error(want, torch.as_tensor(got)) < 1e-5


def test_values_that_are_quantized_are_found_in_the_file_by_the_programs_names(quantized, built, tmp_path):
    """A name handed to another value, or lost, would leave kernels unchecked, or compared with what they do not make."""
    codes = list(quantized.find("quantized_decomposed.quantize_per_tensor"))
    names = [node.name for node in codes]
    assert Openvino().expose(quantized, host(), built[0].folder, names, tmp_path) == names
    out = make_runner(tmp_path / MODEL_FILE, Openvino().properties())([quantized.args[0].numpy()])
    seen: dict[str, torch.Tensor] = {}

    class Watched(fx.Interpreter):
        def run_node(self, n):
            seen[n.name] = super().run_node(n)
            return seen[n.name]

    Watched(quantized.module, graph=quantized.graph).run(*quantized.args)
    for node, real in zip(codes, out[1:], strict=True):
        off = np.abs(real - seen[next(iter(node.users)).name].numpy())
        assert off.max() <= 1.01 * node.args[1], "no more than a code"
        assert (off > node.args[1] / 2).mean() < 0.05, "where the kernel rounds a tie otherwise"


def test_a_second_build_in_a_process_has_the_same_bytes(quantized, built, tmp_path):
    """OpenVINO numbers nodes through the whole process, and names those without a name by these numbers."""
    again, _ = _lower(quantized, tmp_path)
    for name in ("model.xml", "model.bin"):
        assert (again.folder / name).read_bytes() == (built[0].folder / name).read_bytes()


# ---- options -------------------------------------------------------------------------------------------------------


def test_the_runtime_gets_the_options_of_the_backend(built):
    backend = find_backend("openvino(threads=1, precision='bf16', hint='throughput')")
    compiled = compile_model(built[0].folder / MODEL_FILE, backend.properties())
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NUM_STREAMS") == 1
    assert not compiled.get_property("ENABLE_CPU_PINNING")
    assert backend.properties()["INFERENCE_PRECISION_HINT"] == "bf16"
    computed = openvino.Type.bf16 if "bf16" in native_precisions() else openvino.Type.f32
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == computed
    assert "THROUGHPUT" in str(compiled.get_property("PERFORMANCE_HINT"))
    assert "INFERENCE_PRECISION_HINT" not in Openvino(precision="auto").properties()


@pytest.mark.parametrize(
    ("text", "error"),
    [("openvino(treads=2)", UnknownNameError), ("openvino(precision='f8')", OptionError), ("openvino(threads=0)", OptionError)],
)  # fmt: skip
def test_options_that_do_not_exist_are_refused(text, error):
    with pytest.raises(error):
        find_backend(text)


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_tuning_offers_bf16_only_where_quantization_is_noisier(kind, conv, quantized, monkeypatch):
    seen = []

    def last(runs, seconds):
        seen.extend(runs)
        return list(runs)[-1]

    monkeypatch.setattr("fxopt.runtime.tune_options.fastest", last)
    tuned = Openvino(threads=1).tune(quantized if kind == "int8" else conv, host(), 0.1)
    assert seen[0] == "openvino(threads=1)"
    assert any("bf16" in name for name in seen) == (kind == "int8")
    assert str(tuned) == seen[-1]
    assert len(seen) == len(set(seen))


# ---- bad inputs ----------------------------------------------------------------------------------------------------


def test_an_op_that_openvino_lacks_is_named_with_its_line(tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            return torch.linalg.det(x.relu())

    with pytest.raises(BackendError, match=r"cannot convert Det:\n.*test_openvino\.py:\d+"):
        _lower(capture(Net(), (torch.randn(2, 3, 3),)), tmp_path)


def test_an_op_without_an_onnx_form_is_refused_before_the_build():
    class Net(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x).abs()

    (node,) = capture(Net(), (torch.randn(2, 3, 3),)).find("aten.linalg_eigvals")
    assert "no ONNX form" in Openvino().refuses(node)


def test_what_the_onnx_form_of_openvino_cannot_read_is_refused_before_the_build():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(9, 4)

        def forward(self, x, tokens):
            return torch.stft(x, 16, window=torch.ones(16), return_complex=True).abs(), self.bag(tokens)

    program = capture(Net().eval(), (torch.randn(2, 64), torch.randint(0, 9, (2, 5))))
    reasons = [reason for node in program.graph.nodes if (reason := Openvino().refuses(node))]
    assert len(reasons) == 2
    assert "aten.stft" in reasons[0]
    assert "use nn.Embedding and a mean" in reasons[1]


def test_without_openvino_the_way_out_is_told(built, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"pip install 'fxopt\[openvino-runtime\]'"):
        Openvino().load(built[0].folder, bare_manifest())


def test_without_the_exporter_the_way_out_is_told(conv, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    (node, *_) = conv.find("aten.conv2d")
    with pytest.raises(BackendError, match=r"onnxscript is not installed(.|\n)*'fxopt\[openvino\]'"):
        Openvino().refuses(node)


def test_a_damaged_model_is_an_error_of_the_backend(tmp_path):
    (tmp_path / MODEL_FILE).write_text("<net")
    with pytest.raises(BackendError, match=r"cannot load model\.xml: \S"):
        Openvino().load(tmp_path, bare_manifest())


def test_inputs_the_runtime_refuses_are_an_error_of_the_user(tmp_path):
    class Net(nn.Module):
        def forward(self, x, i):
            return x.view(2, -1).sum(1), i + 1

    program = capture(Net(), (torch.randn(4, 3), torch.zeros(2, dtype=torch.int64)), dynamic=None)
    artifact, _ = _lower(program, tmp_path)
    run = artifact.runner
    assert run([np.zeros((4, 3), np.float32), np.array([2**31 - 2, 0])])[1].tolist() == [2**31 - 1, 1]
    with pytest.raises(UsageError, match=r"incompatible|shape"):
        run([np.zeros((5, 3), np.float32), np.zeros(2, np.int64)])
    with pytest.raises(UsageError, match=r"32 bits; input 'i'"):
        run([np.zeros((4, 3), np.float32), np.array([2**31, 0])])


@pytest.mark.parametrize("dim", [1, 2, (1, 2), (2, 1)], ids=str)
@pytest.mark.parametrize("name", ["fftn", "ifftn"])
def test_a_fourier_transform_is_along_the_dims_asked_for(tmp_path, name, dim):
    """OpenVINO takes the second dim for one that ONNX gives as an input, which it does from version 20 on."""

    class Spectrum(nn.Module):
        def forward(self, x):
            dims = dim if isinstance(dim, tuple) else (dim,)
            return torch.view_as_real(getattr(torch.fft, name)(torch.complex(x, x.flip(1)), dim=dims))

    built, _ = _lower(capture(Spectrum(), (torch.randn(2, 8, 6),)), tmp_path)
    x = torch.randn(3, 8, 6)
    assert sqnr([Spectrum()(x)], [torch.as_tensor(built(x.numpy()))]) > 100


@pytest.mark.parametrize("name", ["rfft", "rfft2", "irfft2", "hfft"])
def test_half_a_spectrum_is_refused(name):
    class Half(nn.Module):
        def forward(self, x):
            transformed = getattr(torch.fft, name)(x if name.startswith("rfft") else torch.complex(x, x.flip(1)))
            return torch.view_as_real(transformed) if transformed.is_complex() else transformed

    with pytest.raises(BackendError, match=r"half a spectrum a dim too many .*take torch.fft.fft and slice it"):
        check_lowerable(Openvino(), capture(Half(), (torch.randn(2, 8, 6),)))
