"""The TVM backend: the numbers of eager for every shape of layer, reasons for what it refuses, and running without torch."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import tuned
from cases.manifests import bare_manifest
from cases.other_dims import Clip, Decoder, Wave
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, capture
from fxopt.backend import find_backend
from fxopt.backends.tvm import Tvm
from fxopt.backends.tvm import runtime as tvm_runtime
from fxopt.backends.tvm.machine.processor import Processor, processor_of
from fxopt.backends.tvm.schedule import primitives as loops
from fxopt.backends.tvm.tiling.task import Task, Tile, candidates
from fxopt.backends.tvm.tir.parallel_threshold import in_threads
from fxopt.driver.build import build
from fxopt.driver.lower import lower
from fxopt.driver.recipe import Recipe
from fxopt.errors import BackendError
from fxopt.numerics.error_metrics import relative_error
from fxopt.runtime.artifact import Artifact
from fxopt.target import Target
from fxopt.target.detect import host
from fxopt.testing import small_workload

if reason := Tvm().missing():
    pytest.skip(reason, allow_module_level=True)


def _lower(program: Program, out: Path, backend: Tvm | None = None) -> Artifact:
    return lower(program, backend or Tvm(), host(), out)[1]


def _check(
    module: nn.Module, args: tuple[torch.Tensor, ...], out: Path, sizes: tuple[int, ...] = (1, 2, 5)
) -> Artifact:
    """Build, and compare with the module in float64 on new inputs of several batch sizes."""
    torch.manual_seed(1)
    program = capture(module.eval(), args)
    artifact = _lower(program, out)
    for size in sizes if "batch" in program.dims().values() else (len(args[0]),):
        inputs = [torch.randn(size, *arg.shape[1:]) for arg in args]
        got = artifact(*[x.numpy() for x in inputs])
        with torch.no_grad():
            want = module.double()(*[x.double() for x in inputs])
        module.float()
        outputs = [(want, got)] if isinstance(want, torch.Tensor) else list(zip(want, got, strict=True))
        for i, (exact, have) in enumerate(outputs):
            assert have.shape == exact.shape, f"output {i} in a batch of {size}"
            assert relative_error(exact, torch.from_numpy(have)) < 2e-6, f"output {i} in a batch of {size}"
    return artifact


class _Each(nn.Module):
    """Several modules on the same input, each with an output of its own."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.each = nn.ModuleList(modules)

    def forward(self, x):
        return tuple(module(x) for module in self.each)


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_windows_of_several_sizes_are_averaged(tmp_path):
    """Such a kernel has loops inside its block, which no schedule reaches."""
    pools = [nn.AdaptiveAvgPool2d(size) for size in (3, (3, 2), 4, 7)]
    _check(_Each(*pools), (torch.randn(2, 16, 7, 7),), tmp_path)


@pytest.mark.parametrize(
    ("net", "shape"),
    [(Wave, (2, 3, 40)), (Clip, (2, 3, 4, 6, 6)), (Decoder, (2, 8, 5, 7))],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_lines_volumes_and_larger_images(net, shape, tmp_path):
    torch.manual_seed(0)
    artifact = _check(net(), (torch.randn(shape),), tmp_path)
    tiles = artifact.manifest.facts["tiles"]
    assert sum(key.startswith("conv2d") for key in tiles) >= 2, "they are tasks to tune"


class _Moves(nn.Module):
    """What is moved behind a convolution, and read in vectors, in its own form, or both."""

    def __init__(self):
        super().__init__()
        self.first, self.shuffled = nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(20, 12, 1)
        self.narrow, self.larger = nn.Conv2d(10, 7, 3), nn.Conv2d(5, 32, 1)

    def forward(self, x):
        x = F.relu(self.first(x))
        front, back = x.chunk(2, 1)
        large = F.relu(F.pixel_shuffle(x, 2))
        return (
            self.shuffled(F.gelu(F.channel_shuffle(x, 4))),
            self.narrow(front) - self.narrow(back),
            self.larger(large),
            x.flatten(2).transpose(1, 2).softmax(-1),
            F.relu(x[:, 2:9:2, 1:-1] - 0.5) * 2,
            x.reshape(-1, 4, 5, 9, 7).permute(0, 3, 1, 4, 2) + 1,
            torch.cat([front, large[:, :, ::2, ::2].repeat(1, 2, 1, 1)], 1),
            F.pixel_unshuffle(large, 2),
            x[:, :, None].squeeze(2).tensor_split((3, 8), 1)[1],
        )


def test_moves_of_every_kind(tmp_path):
    torch.manual_seed(0)
    _check(_Moves(), (torch.randn(2, 3, 9, 7),), tmp_path)


@pytest.mark.parametrize(
    ("channels", "size"),
    [(3, (9, 13)), (16, (7, 7)), pytest.param(40, (6, 17), marks=pytest.mark.slow), (32, (1, 1))],
)
def test_convolutions_of_every_kind(channels, size, tmp_path):
    """Channels that are no whole vectors, widths that are no whole tiles, borders, strides, dilation, groups."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(channels, 32, 1),
        nn.Conv2d(channels, 20, 3, padding=1),
        nn.Conv2d(channels, 48, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(channels, 7, (1, 5), padding=(0, 2)),
        nn.Conv2d(channels, 16, 3, padding=2, dilation=2),
        nn.Conv2d(channels, 16, 5, padding=(4, 3), stride=(1, 2)),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels),
        nn.Conv2d(channels, 64, 1, stride=2),
    ]
    if channels % 2 == 0:
        layers.append(nn.Conv2d(channels, 64, 3, padding=1, groups=2))
    _check(_Each(*layers), (torch.randn(2, channels, *size),), tmp_path)


class _Blocks(nn.Module):
    """What stands between convolutions: sums, gates, pools, concatenation, activations, and ops that mix channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.gate, self.wide, self.last = nn.Conv2d(20, 20, 1), nn.Conv2d(20, 16, 1), nn.Conv2d(68, 9, 1)
        self.scale = nn.Parameter(torch.randn(20, 1, 1))
        self.map = nn.Parameter(torch.randn(1, 1, 8, 8))

    def forward(self, x):
        y = F.relu6(self.stem(x))
        z = F.hardswish(self.deep(y)) + y
        z = z * torch.sigmoid(self.gate(z.mean((2, 3), keepdim=True)))
        z = F.silu(z * self.scale - self.map) / (1.5 + self.scale.abs())
        w = F.max_pool2d(F.leaky_relu(self.wide(z), 0.1), 3, 2, 1)
        a = F.avg_pool2d(F.gelu(self.wide(y)), 2)
        mixed = torch.cat([w, a, torch.tanh(a)], 1)
        shuffled = z.view(z.shape[0], 4, 5, 8, 8).transpose(1, 2).reshape(z.shape[0], 20, 8, 8)
        mixed = torch.cat([mixed, F.max_pool2d(shuffled, 2)], 1)
        return self.last(mixed), mixed.mean((2, 3)), z / (z.abs() + 1)


def test_what_stands_between_convolutions(tmp_path):
    torch.manual_seed(0)
    _check(_Blocks(), (torch.randn(2, 3, 8, 8),), tmp_path)


class _Products(nn.Module):
    """Linears of few and many rows and columns, and products of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.odd = nn.Linear(24, 10), nn.Linear(24, 64), nn.Linear(24, 37, bias=False)
        self.low = nn.Parameter(torch.randn(24, 5))

    def forward(self, x):
        heads = x.reshape(x.shape[0], 11, 3, 8).transpose(1, 2)
        scores = (heads @ heads.transpose(-1, -2)).softmax(-1)
        attended = (scores @ heads).transpose(1, 2).reshape(x.shape[0], 11, 24)
        return self.narrow(x), self.wide(attended), F.gelu(self.odd(x[:, 0])), x @ self.low, x @ x.mT


def test_products_of_every_kind(tmp_path):
    torch.manual_seed(0)
    _check(_Products(), (torch.randn(2, 11, 24),), tmp_path)


def test_functions_keep_their_numbers_where_they_are_steep_flat_and_small(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(23)

        def forward(self, x):
            masked = x.masked_fill(x > 0.5, float("-inf"))
            far = 300.0 + x * 0.01  # a variance that squares of the numbers would lose
            return (
                torch.tanh(x * 1e-3), torch.tanh(x * 20), torch.sigmoid(x * 40), torch.erf(x * 3), torch.exp(x * 8),
                F.gelu(x * 6), F.gelu(x, approximate="tanh"), (x * 30).softmax(-1), masked.softmax(-1), x.softmax(1),
                self.norm(x), F.log_softmax(x, -1), F.silu(x * 50),
            ), self.norm(far)  # fmt: skip

    torch.manual_seed(0)
    program = capture(Net().eval(), (torch.randn(3, 19, 23),))
    x = torch.randn(4, 19, 23)
    got, normal = _lower(program, tmp_path)(x.numpy())
    want, exact = Net().double()(x.double())
    for i, (a, b) in enumerate(zip(want, got, strict=True)):
        np.testing.assert_allclose(b, a.detach().numpy(), rtol=2e-5, atol=1e-6, err_msg=f"output {i}")
    np.testing.assert_allclose(normal, exact.detach().numpy(), rtol=0.1, atol=0.02)


def test_inputs_and_outputs_of_every_kind_keep_their_order_and_dtype(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.arange(300))

        def forward(self, x, unused, *, scale, keep, index):
            return x, self.table, x * scale, keep.logical_not(), index * 2, self.table[index], x.double() + 1

    x = torch.randn(2, 3)
    named = {"scale": torch.tensor(0.5), "keep": torch.tensor([True, False]), "index": torch.tensor([290, 3])}
    program = capture(Net(), (x, torch.randn(2, 4)), named)
    artifact = _lower(program, tmp_path)
    got = artifact(x.numpy(), np.zeros((2, 4), np.float32), **{k: v.numpy() for k, v in named.items()})
    for want, have in zip(program(x, torch.zeros(2, 4), **named), got, strict=True):
        assert have.dtype == want.numpy().dtype
        np.testing.assert_array_equal(have, want)
    kept = got[0].copy()
    artifact(-x.numpy(), np.zeros((2, 4), np.float32), **{k: v.numpy() for k, v in named.items()})
    np.testing.assert_array_equal(got[0], kept, err_msg="a later call wrote into the outputs of an earlier one")


def test_a_dim_beside_the_batch_may_be_dynamic(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up = nn.LayerNorm(16), nn.Linear(16, 24)

        def forward(self, x):
            return (self.up(self.norm(x)) @ self.up.weight).softmax(1)

    torch.manual_seed(0)
    net, dims = Net().eval(), {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=64)}
    program = capture(net, (torch.randn(2, 5, 16),), dynamic=(dims,))
    artifact = _lower(program, tmp_path)
    for shape in ((1, 1, 16), (3, 9, 16), (2, 64, 16)):
        x = torch.randn(shape)
        assert relative_error(net(x), torch.from_numpy(artifact(x.numpy()))) < 1e-5


def test_a_quantized_program_gives_its_own_numbers(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    program = capture(net, (torch.randn(2, 3, 8, 8),))
    where = {"workload": small_workload(program), "target": host(), "backend": Tvm()}
    quantized = Pipeline.parse("quantize").run(program, watchers=(), **where).program
    assert any(quantized.find("quantized_decomposed.quantize_per_tensor"))
    x = torch.randn(16, 3, 8, 8)
    got = torch.from_numpy(_lower(quantized, tmp_path)(x.numpy()))
    assert relative_error(quantized(x), got) < relative_error(net(x), quantized(x)) / 10


# ---- tiles ---------------------------------------------------------------------------------------------------------


def test_every_tile_of_a_task_gives_the_same_numbers(tmp_path):
    """A database may hold any of them, not only those that the rule would take."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 77, 48)).eval()
    program, x = capture(net, (torch.randn(2, 16, 7, 11),)), torch.randn(3, 16, 7, 11)
    tasks = tuned.tasks(program, host())
    assert [key.split()[0] for key in tasks] == ["conv2d", "matmul"]
    for i, tile in enumerate((Tile(1, 1, 1), Tile(3, 4, 2), Tile(5, 2, 4))):
        (out := tmp_path / str(i)).mkdir()
        backend = tuned.backend(out / "tiles.jsonl", host(), dict.fromkeys(tasks, tile))
        artifact = lower(program, backend, host(), out)[1]
        assert set(map(str, artifact.manifest.facts["tiles"].values())) == {str(tile.to_dict())}
        assert relative_error(net.double()(x.double()), torch.from_numpy(artifact(x.numpy()))) < 2e-6
        net.float()


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [(8, {"serial"}), (2**20, {"parallel"}), (None, {"serial", "parallel"})],
    ids=["few", "many", "as many as come"],
)
def test_rounds_are_handed_out_where_they_are_many(rows, kinds):
    import tvm
    from tvm import te, tirx
    from tvm.s_tir import Schedule
    from tvm_ffi import structural_walk

    size = te.var("n", "int64") if rows is None else rows
    x = te.placeholder((size, 64), name="x")
    sch = Schedule(te.create_prim_func([x, te.compute(x.shape, lambda i, j: x[i, j] + x[i, j])]))
    row, column = sch.get_loops(sch.get_child_blocks(sch.get_sblock("root"))[0])
    loops.parallel(sch, [row])
    sch.vectorize(column)
    lower_loops, _, _ = tirx.get_tir_pipeline("s_tir")
    module = tvm.IRModule({"main": sch.mod["main"].with_attr("global_symbol", "main")})
    made = in_threads(lower_loops(tirx.transform.BindTarget(tvm.target.Target("llvm", host="llvm"))(module)), 2)
    found, name = set(), sch.get(row).loop_var.name

    def note(loop):
        if int(loop.kind) == tirx.ForKind.PARALLEL:
            found.add("parallel")
        elif loop.loop_var.name.startswith(name):
            found.add("serial")

    structural_walk(made["main"].body, (tirx.For, note))
    assert found == kinds


def test_tiles_leave_registers_for_operands_and_waste_little():
    wide = Processor("x86_64-linux-gnu", "x86-64-v4", lanes=16, registers=32)
    for positions in (1, 7, 13, 14, 56, 112, 197):
        tiles = candidates(Task("t", positions, 4, 16), wide)
        assert all(tile.rows * tile.vectors <= 20 for tile in tiles)
        best = tiles[0]
        assert -(-positions // best.rows) * best.rows < 1.25 * positions + 1
    assert all(
        tile.rows * tile.vectors <= 12 for tile in candidates(Task("t", 56, 4, 8), Processor("x86_64", "", lanes=8))
    )


def test_the_processor_is_read_off_features():
    def lanes(*features, triple="x86_64-linux-gnu"):
        found = processor_of(Target("t", triple, features=frozenset(features)))
        return found.lanes, found.registers

    assert lanes("avx2", "fma", "avx512f") == (16, 32)
    assert lanes("avx2", "fma") == (8, 16)
    assert lanes() == (4, 16)
    assert lanes("neon", triple="aarch64-linux-gnu") == (4, 32)
    with pytest.raises(BackendError, match=r"x86_64, aarch64 and riscv64, and .*'mips-linux-gnu'"):
        lanes(triple="mips-linux-gnu")


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [frozenset(), frozenset({"rvv"})], ids=["scalar", "vectors"])
def test_libraries_for_risc_v_link(features, tmp_path):
    """The header of the file says what it is for: ELF's number 243, the double-float ABI, and vectors only if asked for."""
    board = Target("board", "riscv64-linux-gnu", features=features)
    if reason := Tvm().cannot_build(board):
        pytest.skip(reason)
    program = capture(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), (torch.randn(1, 3, 8, 8),))
    _, built = lower(program, Tvm(), board, tmp_path)
    assert "machine code of riscv64" in built.elsewhere
    data = (tmp_path / "model.so").read_bytes()
    assert int.from_bytes(data[18:20], "little") == 243
    assert int.from_bytes(data[48:52], "little") & 0x6 == 0x4
    assert (b"_v1p0_" in data) == bool(features)


def test_what_webassembly_lacks_is_told_with_the_way_out():
    with pytest.raises(BackendError, match=r"Emscripten(.|\n)*ONNX Runtime Web"):
        processor_of(Target("browser", "wasm32-unknown-emscripten"))


def test_all_ops_without_a_form_are_listed_with_their_lines_before_the_build(tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            y = torch.linalg.det(x) + torch.special.bessel_j0(x.sum((1, 2)))
            return y.relu()

    program = capture(Net(), (torch.randn(2, 3, 3),))
    with pytest.raises(BackendError) as caught:
        _lower(program, tmp_path)
    message = str(caught.value)
    assert "cannot lower 2 node(s)" in message
    assert message.count("test_tvm.py:") == 2
    assert "det" in message
    assert "special_bessel_j0" in message
    assert not list(tmp_path.iterdir())


def test_ops_that_tvm_lacks_are_taken_apart_where_torch_can(tmp_path):
    class Net(nn.Module):
        def forward(self, x):
            return F.mish(x), torch.addcmul(x, x, x), F.huber_loss(x, x * 2, reduction="none"), x.logsumexp(-1)

    program = capture(Net(), (torch.randn(2, 6),))
    x = torch.randn(3, 6)
    for want, have in zip(program(x), _lower(program, tmp_path)(x.numpy()), strict=True):
        np.testing.assert_allclose(have, want.numpy(), rtol=1e-5, atol=1e-6)


def test_integers_beside_fractions_and_flags_among_the_inputs_give_the_numbers_of_eager(tmp_path):
    """TVM's importer reads 0.5 beside an integer as 0, divides integers to an integer, and takes a flag for a tensor."""

    class Net(nn.Module):
        def forward(self, i, use_cache=True):
            parts = (
                i + 0.5,
                0.5 - i,
                i / 2,
                i % 1.5,
                (i >= 1.5) * 1.0,
                i.clamp(min=0.5),
                torch.add(i.float(), i, alpha=0.5),
            )
            return torch.stack(parts) if use_cache else i

    i = torch.arange(-4, 8).view(2, 6)
    program = capture(Net(), (i,), {"use_cache": True})
    np.testing.assert_allclose(_lower(program, tmp_path)(i.numpy(), use_cache=True), Net()(i).numpy(), rtol=1e-6)


def test_what_the_importer_gives_other_dtypes_is_refused_with_the_way_out():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x, i):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.linear(x)
            return y.float(), i**i

    program = capture(Net().eval(), (torch.randn(2, 4), torch.randint(0, 3, (2, 4))))
    reasons = [reason for node in program.graph.nodes if (reason := Tvm().refuses(node))]
    assert len(reasons) == 2
    assert "without torch.autocast" in reasons[0]
    assert "aten.pow.Tensor_Tensor of floats alone" in reasons[1]


@pytest.mark.parametrize("version", ["0.1.15", "0.1.15.post2"])
def test_the_version_that_crashes_is_answered_with_the_pin(version, monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == "apache-tvm-ffi" else real(name))
    assert "pip install apache-tvm-ffi==0.1.14.post1" in Tvm().missing()
    with pytest.raises(BackendError, match=f"apache-tvm-ffi {version} ends the process"):
        tvm_runtime.need_tvm()


def test_without_tvm_the_extra_is_named(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tvm" else real(name, *rest))
    assert "pip install 'fxopt[tvm]'" in Tvm().missing()


# ---- the artifact --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("digits") / "built"
    report = build(Recipe("digits", ("fold_batch_norm",), "tvm(threads=1)"), out, measure=False)
    assert report.after.metric == report.before.metric
    return out


_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy, fxopt
model = fxopt.load(sys.argv[1])
numpy.save(sys.argv[2], model(numpy.load(sys.argv[3])))
"""


def test_an_artifact_runs_without_torch(digits, tmp_path):
    x = np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    names = [str(digits), str(tmp_path / "y.npy"), str(tmp_path / "x.npy")]
    subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, *names], check=True, env=os.environ | {"TVM_NUM_THREADS": "7"}
    )
    import fxopt

    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), fxopt.load(digits)(x))


def test_the_library_and_the_parameters_are_files_of_their_own(digits):
    assert {path.name for path in digits.iterdir()} == {"manifest.json", "report.json", "model.so", "model.params"}
    assert (digits / "model.params").stat().st_size > 20_000


def test_each_call_has_the_threads_of_its_backend(digits):
    """Two artifacts in one process may want different numbers, and the runtime has one pool of threads."""
    import tvm

    x = [np.zeros((1, 1, 8, 8), np.float32)]
    one, two = (find_backend(f"tvm(threads={n})").load(digits, bare_manifest()) for n in (1, 2))
    seen = []
    for run in (one, two, one, two):
        run(x)
        seen.append(tvm.runtime.num_threads())
    assert seen == [1, 2, 1, 2]


def test_calls_from_several_threads_do_not_share_inputs(digits):
    run = find_backend("tvm(threads=1)").load(digits, bare_manifest())
    inputs = [np.full((1, 1, 8, 8), float(i), np.float32) for i in range(4)]
    want = [run([x])[0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: run([inputs[i % 4]])[0], range(200)))
    for i, output in enumerate(got):
        np.testing.assert_array_equal(output, want[i % 4])


def test_a_broken_library_is_an_error_of_the_backend(digits, tmp_path):
    (tmp_path / "model.so").write_bytes(b"no library")
    (tmp_path / "model.params").write_bytes((digits / "model.params").read_bytes())
    with pytest.raises(BackendError, match=r"cannot load .*model\.so"):
        Tvm().load(tmp_path, bare_manifest())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2", "vit_b_16"])
def test_whole_models_agree_with_eager(name, tmp_path):
    from fxopt.workload import find_workload

    program = find_workload(f"torchvision:{name}").capture()
    artifact = _lower(program, tmp_path)
    for size in (1, 3):
        x = torch.randn(size, 3, 224, 224)
        assert relative_error(program(x), torch.from_numpy(artifact(x.numpy()))) < 1e-4
