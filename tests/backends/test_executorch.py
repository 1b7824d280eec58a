"""The ExecuTorch backend: the numbers of eager, integer layers where they were asked for, and what XNNPACK leaves out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cases.manifests import bare_manifest
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, capture
from fxopt.backend import find_backend
from fxopt.backends.executorch import Executorch
from fxopt.backends.executorch.runtime import MODEL_FILE
from fxopt.backends.onnx import Onnx
from fxopt.driver.artifact_check import Fidelity
from fxopt.driver.intermediate_values import Exposed
from fxopt.driver.lower import lower
from fxopt.errors import BackendError, OptionError, UsageError
from fxopt.numerics.error_metrics import relative_error, sqnr
from fxopt.runtime.artifact import Artifact, load
from fxopt.target import find_target
from fxopt.target.detect import host
from fxopt.testing import small_workload

if reason := Executorch().missing():
    pytest.skip(reason, allow_module_level=True)


def _lower(program: Program, out: Path, backend: Executorch | None = None) -> tuple[Program, Artifact]:
    out.mkdir(exist_ok=True)
    return lower(program, backend or Executorch(), host(), out)


def _quantized(program: Program, backend=None) -> Program:
    where = {"workload": small_workload(program), "target": host(), "backend": backend or Executorch()}
    return Pipeline.parse("quantize").run(program, watchers=(), **where).program


class _Conv(nn.Module):
    """Convolutions of each kind, a residual, a concatenation, pools, silu and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point, self.wide = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = F.relu(self.stem(x))
        z = F.relu6(self.deep(F.avg_pool2d(y, 3, 1, 1)))
        y = F.relu(self.point(z) + y)
        y = torch.cat([F.max_pool2d(y, 2), F.max_pool2d(z, 2)], 1)
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
def in_float(conv, tmp_path_factory) -> Artifact:
    return _lower(conv, tmp_path_factory.mktemp("float"), Executorch(batch=4))[1]


@pytest.fixture(scope="module")
def in_int8(quantized, tmp_path_factory) -> tuple[Program, Artifact]:
    return _lower(quantized, tmp_path_factory.mktemp("int8"))


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_float_agrees_with_eager_in_every_batch_size_beyond_the_bound_too(conv, in_float):
    assert in_float.manifest.dims == {"batch": (1, 4)}
    for size in (1, 4, 11):
        x = torch.randn(size, 3, 8, 8)
        assert relative_error(conv(x), torch.from_numpy(in_float(x.numpy()))) < 1e-5


def test_all_of_a_common_network_is_one_part_of_xnnpack(in_float, in_int8):
    for artifact in (in_float, in_int8[1]):
        facts = artifact.manifest.facts
        assert facts["portable"] == []
        assert (facts["delegates"], facts["delegated_share"]) == (1, 1.0)


@pytest.mark.slow
def test_int8_layers_give_the_codes_of_the_quantized_program(in_int8, tmp_path):
    legal, artifact = in_int8
    facts = artifact.manifest.facts
    assert (facts["integer_contractions"], facts["float_contractions"]) == (5, 0)
    assert facts["dequantized_at_run_time"] == []
    exposed = Exposed(legal, Executorch(), host(), artifact, tmp_path / "exposed")
    agreed = Fidelity(legal).check(artifact, lambda: exposed)
    assert len(exposed.names) == len(list(legal.find("quantized_decomposed.quantize_per_tensor")))
    assert agreed.sqnr_db > 45
    x = torch.randn(16, 3, 8, 8)
    _, codes = exposed(x.numpy())
    assert {value.dtype for value in codes.values()} == {torch.uint8}


def test_what_is_joined_has_one_scale(quantized):
    (join,) = quantized.find("aten.cat")
    codes = {tuple(source.args[1:3]) for source in join.all_input_nodes} | {tuple(next(iter(join.users)).args[1:3])}
    assert len(codes) == 1


@pytest.mark.slow
def test_a_program_quantized_for_other_kernels_keeps_its_numbers(conv, tmp_path):
    program = _quantized(conv, Onnx())
    _, artifact = _lower(program, tmp_path / "out")
    facts = artifact.manifest.facts
    x = torch.randn(16, 3, 8, 8)
    assert sqnr([program(x)], [torch.from_numpy(artifact(x.numpy()))]) > 45
    assert (facts["integer_contractions"], facts["float_contractions"]) == (4, 1)
    (late,) = facts["dequantized_at_run_time"]
    assert "aten.linear" in late
    assert "what it gives is not quantized" in late


# ---- what XNNPACK leaves, what nobody takes ------------------------------------------------------------------------


class _Sums(nn.Module):
    def forward(self, x):
        return x.relu().cumsum(1) - x.mean(0)


def test_a_call_outside_xnnpack_is_named_with_its_line_and_the_reason(tmp_path):
    _, artifact = _lower(capture(_Sums(), (torch.randn(2, 3),)), tmp_path)
    portable = {call["op"]: call for call in artifact.manifest.facts["portable"]}
    assert {"aten.cumsum", "aten.mean.dim"} <= portable.keys()
    assert "test_executorch.py:" in portable["aten.cumsum"]["source"]
    assert portable["aten.cumsum"]["node"].startswith("%cumsum = aten.cumsum(")
    assert "4D" in portable["aten.mean.dim"]["reason"]
    assert not artifact.manifest.splits, "each example's result depends on the whole batch"
    with pytest.raises(UsageError, match="batch: 1 to 32, 40 in this call"):
        artifact(np.zeros((40, 3), np.float32))


def test_a_dim_without_an_upper_bound_is_refused_and_one_with_it_is_not(tmp_path):
    model, x = nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8)
    free = capture(model, (x,), dynamic=({2: torch.export.Dim("h", min=4)},))
    with pytest.raises(BackendError, match=r"the dim \w+_2 has no upper bound") as told:
        _lower(free, tmp_path / "free")
    assert "Dim(name, min" in str(told.value)
    bounded = capture(model, (x,), dynamic=({2: torch.export.Dim("h", min=4, max=19)},))
    _, artifact = _lower(bounded, tmp_path / "bounded")
    x = torch.randn(1, 3, 19, 8)
    assert relative_error(bounded(x), torch.from_numpy(artifact(x.numpy()))) < 1e-5


@pytest.mark.parametrize(
    ("model", "shape", "why"),
    [
        (nn.Conv3d(2, 2, 1), (1, 2, 3, 3, 3), "over volumes"),
        (nn.MaxPool3d(2), (1, 2, 4, 4, 4), "no kernel of aten.max_pool3d"),
    ],
)
def test_an_op_without_a_kernel_is_refused_before_the_build(model, shape, why, tmp_path):
    with pytest.raises(BackendError, match=why):
        _lower(capture(model, (torch.randn(shape),)), tmp_path)


# ---- targets, options, the artifact --------------------------------------------------------------------------------


def test_phones_take_the_file_and_microcontrollers_do_not():
    assert Executorch().cannot_build(find_target("android_arm64")) is None
    assert Executorch().cannot_build(find_target("ios_arm64")) is None
    assert "Cortex-M" in str(Executorch().cannot_build(find_target("cortex_m55")))
    for name in ("onnx", "openvino", "tvm", "eager"):
        assert find_backend(name).cannot_build(find_target("cortex_m55")) is not None


def test_weights_are_not_bounded_on_any_processor():
    policies = {Executorch().quant_policy(find_target(name)) for name in ("x86_64_v3", "x86_64_vnni", "android_arm64")}
    assert [policy.pairs_in_16_bits for policy in policies] == [False]


@pytest.mark.parametrize("text", ["executorch(batch=0)", "executorch(threads=0)"])
def test_options_out_of_range_are_refused(text):
    with pytest.raises(OptionError):
        find_backend(text)


_LOADED = """
import sys
import numpy as np
import fxopt
np.save(sys.argv[3], fxopt.load(sys.argv[1])(np.load(sys.argv[2])))
compilers = [name for name in sys.modules if name.startswith(("executorch.exir", "executorch.backends", "torchao"))]
assert not compilers, compilers
"""


@pytest.mark.slow
def test_an_artifact_loads_without_the_compiler(conv, in_float, tmp_path):
    x = torch.randn(3, 3, 8, 8)
    np.save(tmp_path / "x.npy", x.numpy())
    argv = [str(path) for path in (in_float.folder, tmp_path / "x.npy", tmp_path / "y.npy")]
    done = subprocess.run([sys.executable, "-c", _LOADED, *argv], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert relative_error(conv(x), torch.from_numpy(np.load(tmp_path / "y.npy"))) < 1e-5


def test_a_damaged_model_is_an_error_of_the_backend_with_what_the_library_said(tmp_path):
    (tmp_path / MODEL_FILE).write_bytes(b"garbage" * 100)
    with pytest.raises(BackendError, match=r"cannot load model\.pte(.|\n)*identifier(.|\n)*another version"):
        Executorch().load(tmp_path, bare_manifest())


def test_without_the_package_the_way_out_is_told(in_float, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install 'fxopt\[executorch\]'"):
        Executorch().load(in_float.folder, bare_manifest())


@pytest.mark.slow
def test_layers_are_timed_by_their_nodes(in_int8):
    legal, artifact = in_int8
    inputs = [np.zeros((32, 3, 8, 8), np.float32)]  # one image takes less than the microsecond that XNNPACK counts in
    times = Executorch(threads=1).profile(artifact.folder, artifact.manifest, inputs, 3)
    named = [node for time in times for node in time.nodes]
    layers = [node.name for node in legal.graph.nodes if str(node.target).startswith(("aten.conv2d", "aten.linear"))]
    assert [name for name in named if name in layers] == layers
    assert sum(time.ms for time in times) > 0


@pytest.mark.slow
def test_the_same_artifact_is_loaded_by_its_folder(in_int8):
    again = load(in_int8[1].folder)
    x = np.ones((2, 3, 8, 8), np.float32)
    np.testing.assert_array_equal(again(x), in_int8[1](x))


class Joined(nn.Module):
    """What came before, which is nothing at first, and something new."""

    def forward(self, past: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([past, x], 1) * 2


def test_an_input_without_elements_is_taken(tmp_path):
    batch, past = torch.export.Dim("batch", min=1, max=16), torch.export.Dim("past", min=0, max=8)
    program = capture(Joined(), (torch.randn(2, 4), torch.randn(2, 3)), dynamic=({0: batch, 1: past}, {0: batch}))
    _, artifact = _lower(program, tmp_path)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    # numpy's strides of an empty array end the whole process, and not only the call
    np.testing.assert_array_equal(artifact(np.zeros((4, 0), np.float32), x), 2 * x)


_BUILT = """
import sys
import torch
from fxopt.backends.executorch import Executorch
from fxopt.driver.lower import lower
from fxopt.target.detect import host
from pathlib import Path
import fxopt

program = fxopt.capture(torch.nn.Conv2d(3, 4, 3), (torch.randn(1, 3, 8, 8),))
before = torch.get_rng_state()
lower(program, Executorch(), host(), Path(sys.argv[1]))
print(torch.equal(before, torch.get_rng_state()))
"""


@pytest.mark.slow
def test_the_first_build_of_a_process_leaves_the_random_state(tmp_path):
    # modules that it imports late draw numbers: the caller's training would change, and the build be taken for a random one
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _BUILT, str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "True"
