"""A model without Python: the program gives the numbers that Python gives, refuses what Python refuses, and fits in a file."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from cases.integer_chain import IntegerChain

import fxopt
from fxopt import Pipeline, Program, capture
from fxopt.backend import find_backend
from fxopt.backend.manifest import Interface
from fxopt.backends.onnx.standalone import standalone as onnx_standalone
from fxopt.backends.runner import sources
from fxopt.backends.tvm.standalone import standalone as tvm_standalone
from fxopt.bundle import bundling
from fxopt.bundle.bundling import bundle
from fxopt.bundle.compile_program import compile_program
from fxopt.bundle.interface_text import DTYPES, interface_text
from fxopt.driver.lower import lower
from fxopt.errors import BackendError, UsageError
from fxopt.numerics.error_metrics import sqnr
from fxopt.target import Target, find_target
from fxopt.target.detect import host
from fxopt.testing import small_models, small_workload
from fxopt.workload import find_workload

if reason := next((r for name in ("tvm", "onnx") if (r := find_backend(name).missing())), None):
    pytest.skip(reason, allow_module_level=True)
if sys.platform != "linux" or not shutil.which("g++"):
    pytest.skip("the program is for Linux, and compiled by g++", allow_module_level=True)

BACKENDS = ("tvm", "onnx")


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    """Compile the program once for each runtime and target: it is the same for every model."""
    kept = tmp_path_factory.mktemp("compiled")
    commands: dict[tuple[str, ...], tuple[str, Path]] = {}

    def compile_once(stage, units, libraries, triple):
        key = (*units, *libraries, triple)
        if key not in commands:
            command = compile_program(stage, units, libraries, triple)
            copy = kept / str(len(commands))
            shutil.copy2(stage / "bin" / "run", copy)
            commands[key] = command, copy
        (stage / "bin").mkdir(exist_ok=True)
        shutil.copy2(commands[key][1], stage / "bin" / "run")
        return commands[key][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "compile_program", compile_once)
        yield


def _program(name: str) -> Program:
    return next(model for model in small_models() if model.name == name).program()


def _lower(program: Program, backend: str, out: Path, target: Target | None = None) -> Path:
    out.mkdir(parents=True)
    lower(program, find_backend(backend), target or host(), out)
    return out


def _unpack(artifact: Path, into: Path, wheels: Path | None = None) -> Path:
    made = bundle(artifact, into / "model.tar.gz", wheels)
    with tarfile.open(made.path) as tar:
        tar.extractall(into, filter="data")
    return into


def _start(
    folder: Path, *words: object, emulator: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [*emulator, str(folder / "bin" / "run"), *map(str, words)]
    # nothing of Python's or of this machine's may be needed
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "/none"} | environment)


def _run(folder: Path, *inputs: np.ndarray, emulator: Sequence[str] = ()) -> list[np.ndarray]:
    """The outputs of the program, through files."""
    names = []
    for i, array in enumerate(inputs):
        names.append(folder / f"input{i}.npy")
        np.save(names[-1], array)
    done = _start(folder, folder / "model", *names, "--out", folder / "out", emulator=emulator)
    assert done.returncode == 0, done.stderr
    return [np.load(path) for path in sorted((folder / "out").glob("*.npy"), key=lambda p: int(p.stem[6:]))]


def _leaves(value) -> list[np.ndarray]:
    if isinstance(value, dict):
        value = value.values()
    return [value] if isinstance(value, np.ndarray) else [leaf for part in value for leaf in _leaves(part)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small model by its name, for a backend: its artifact, and what a device gets. Each is made once."""
    made: dict[tuple[str, str], tuple[Path, Path]] = {}

    def build(name: str, backend: str) -> tuple[Path, Path]:
        if (name, backend) not in made:
            place = tmp_path_factory.mktemp(f"{name}-{backend}")
            artifact = _lower(_program(name), backend, place / "artifact")
            made[name, backend] = artifact, _unpack(artifact, place)
        return made[name, backend]

    return build


@pytest.fixture(params=BACKENDS)
def residual(request, built):
    """A model with one input and a dynamic batch."""
    return built("residual", request.param)


def test_numbers_are_those_of_python_for_every_batch(residual):
    artifact, folder = residual
    model = fxopt.load(artifact)
    for batch in (1, 2, 5):  # 2 is the example's, which TVM has an entry of its own for
        (x,), _ = model.random_inputs(batch, seed=batch)
        (got,) = _run(folder, x)
        np.testing.assert_array_equal(got, model(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_inputs_and_outputs_keep_their_order_and_names(backend, built):
    artifact, folder = built("structured", backend)
    model = fxopt.load(artifact)
    args, kwargs = model.random_inputs(3)
    expected = _leaves(model(*args, **kwargs))
    got = _run(folder, args[0], kwargs["scale"])
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    lines = _start(folder, folder / "model").stdout.splitlines()
    named = [line.split()[1] for line in lines if line.startswith("output")]
    assert named == ["scores", "parts[0]", "parts[1]", "again"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_integer_inputs(backend, built):
    artifact, folder = built("tied", backend)
    tokens = np.array([[3, 11, 0, 7, 1]])
    (got,) = _run(folder, tokens)
    np.testing.assert_array_equal(got, fxopt.load(artifact)(tokens))


class _Doubled(torch.nn.Module):
    """Every input twice, so that it comes out as it went in."""

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        return [torch.stack([x, x]) for x in inputs]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_dtype_is_read_and_written(backend, tmp_path):
    bits = np.random.default_rng(0).integers(-100, 100, (4, 3))
    arrays = [(bits > 0) if name == "bool" else bits.astype(name) for name in DTYPES]
    inputs = tuple(map(torch.from_numpy, arrays))
    artifact = _lower(capture(_Doubled(), inputs, dynamic=None), backend, tmp_path / "artifact")
    folder = _unpack(artifact, tmp_path)
    for array, got in zip(arrays, _run(folder, *arrays), strict=True):
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, np.stack([array, array]))
    shown = _start(folder, folder / "model", *sorted(folder.glob("input*.npy")), "--print", 24).stdout.splitlines()
    for array, line in zip(arrays, [line for line in shown if line.startswith("output")], strict=True):
        printed = [float(word) for word in line.split(": ")[1].split()]
        np.testing.assert_array_equal(printed, np.stack([array, array]).astype(float).ravel())


def test_what_can_be_written_is_what_the_program_reads():
    table = next(path for path in sources("tvm") if path.name == "tensor.hpp").read_text()
    assert tuple(re.findall(r'\{"(\w+)", "[<|]\w\d", \d\}', table)) == DTYPES


def _quantized(target: Target) -> tuple[Program, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 8, 8)
    program = capture(IntegerChain().eval(), (x,))
    where = {"workload": small_workload(program), "target": target, "backend": find_backend("tvm")}
    return Pipeline.parse("quantize").run(program, watchers=(), **where).program, x


def test_integers_use_the_registers_that_a_process_must_ask_for(tmp_path):
    """On a machine with AMX, a process that did not ask ends of a signal at the first product."""
    program, x = _quantized(host())
    artifact = _lower(program, "tvm", tmp_path / "artifact")
    folder = _unpack(artifact, tmp_path)
    (got,) = _run(folder, x.numpy())
    np.testing.assert_array_equal(got, fxopt.load(artifact)(x.numpy()))
    if "amx-int8" in host().features:
        assert "option integer_instruction amx-int8" in (folder / "model" / "interface.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_digits_in_int8(backend, tmp_path):
    workload = find_workload("digits")
    where = {"workload": workload, "target": host(), "backend": find_backend(backend)}
    steps = Pipeline.parse("fold_batch_norm, clean_up, quantize")
    artifact = _lower(steps.run(workload.capture(), **where).program, backend, tmp_path / "artifact")
    (images,), _ = next(iter(workload.need_data("a test").batches("test", batch_size=16)))
    (got,) = _run(_unpack(artifact, tmp_path), images.numpy())
    np.testing.assert_array_equal(got, fxopt.load(artifact)(images.numpy()))


def test_without_inputs_it_runs_on_a_ramp_and_says_so(residual):
    artifact, folder = residual
    done = _start(folder, folder / "model", "--out", folder / "ramp")
    assert "made up" in done.stdout
    ramp = ((np.arange(2 * 3 * 8 * 8) % 257 - 128) / 128).astype(np.float32).reshape(2, 3, 8, 8)
    np.testing.assert_array_equal(np.load(folder / "ramp" / "output0.npy"), fxopt.load(artifact)(ramp))


def test_raw_bytes_are_the_example_shape(residual):
    artifact, folder = residual
    (x,), _ = fxopt.load(artifact).random_inputs(2)
    (folder / "x.raw").write_bytes(x.tobytes())
    done = _start(folder, folder / "model", folder / "x.raw", "--out", folder / "raw")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(folder / "raw" / "output0.npy"), fxopt.load(artifact)(x))
    (folder / "short.raw").write_bytes(x.tobytes()[:-4])
    done = _start(folder, folder / "model", folder / "short.raw")
    assert done.returncode == 2
    assert "1536 bytes, got 1532" in done.stderr


def _header(text: str, numbers: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + numbers


_F32 = "{'descr': '<f4', 'fortran_order': False, 'shape': "
WRONG_FILES = {
    "dtype": (np.zeros((1, 3, 8, 8)), ["'x'", "expected float32[batch, 3, 8, 8]", "got float64[1, 3, 8, 8]"]),
    "rank": (np.zeros((3, 8, 8), "f4"), ["expected float32[batch, 3, 8, 8]", "got float32[3, 8, 8]"]),
    "fixed dim": (np.zeros((1, 3, 8, 9), "f4"), ["got float32[1, 3, 8, 9]", "batch: 1 to any, 1 in this call"]),
    "empty batch": (np.zeros((0, 3, 8, 8), "f4"), ["got float32[0, 3, 8, 8]", "batch: 1 to any"]),
    "byte order": (np.zeros((1, 3, 8, 8), ">f4"), ["'>f4'", "astype"]),
    "text": (np.array(["word"]), ["'<U4'"]),
    "columns first": (np.asfortranarray(np.ones((1, 3, 8, 8), "f4")), ["ascontiguousarray"]),
    "not numpy": (b"hello, this is no array", ["not a .npy file", "numpy.save"]),
    "empty": (b"", ["no such file, or it is empty"]),
    "cut short": (_header(_F32 + "(1, 3, 8, 8), }", b"1234"), ["ends early", "768 bytes, got 4"]),
    "cut in the header": (b"\x93NUMPY\x01\x00\x76\x00{'descr'", ["ends early"]),
    "more than memory": (_header(_F32 + "(4000000000, 4000000000, 8), }"), ["cannot be held in memory"]),
    "negative": (_header(_F32 + "(-1, 3), }"), ["no shape"]),
    "no shape": (_header("{'descr': '<f4', 'fortran_order': False}"), ["no shape"]),
    "a list of fields": (_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }"), ["no model"]),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_wrong_input_is_told_apart(name, residual, tmp_path):
    _, folder = residual
    content, words = WRONG_FILES[name]
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    done = _start(folder, folder / "model", path)
    assert done.returncode == 2, done.stdout + done.stderr
    for word in words:
        assert word in done.stderr


def test_a_file_of_a_later_version_is_read(residual, tmp_path):
    artifact, folder = residual
    (x,), _ = fxopt.load(artifact).random_inputs(1)
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, x, version=(2, 0))
    done = _start(folder, folder / "model", tmp_path / "x.npy", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "output0.npy"), fxopt.load(artifact)(x))


class _Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


def test_inputs_are_counted_and_those_of_one_batch_have_the_same(tmp_path):
    artifact = _lower(capture(_Pair(), (torch.randn(2, 3), torch.randn(2, 3))), "tvm", tmp_path / "artifact")
    folder = _unpack(artifact, tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((2, 3), "f4"))
    np.save(tmp_path / "y.npy", np.zeros((4, 3), "f4"))
    done = _start(folder, folder / "model", tmp_path / "x.npy", tmp_path / "y.npy")
    assert done.returncode == 2
    assert "input 'y'" in done.stderr
    assert "2 in this call" in done.stderr
    done = _start(folder, folder / "model", tmp_path / "x.npy")
    assert done.returncode == 2
    assert "takes 2 input(s), got 1" in done.stderr


USAGE = {
    "nothing": ([], ["no folder", "usage: run MODEL"]),
    "no model": (["nowhere"], ["nowhere/interface.txt", "no such file"]),
    "no input": (["MODEL", "missing.npy"], ["missing.npy", "no such file"]),
    "a folder as input": (["MODEL", "/"], ["no such file, or it is empty"]),
    "option": (["MODEL", "--timse", "3"], ["unknown option --timse"]),
    "no value": (["MODEL", "--times"], ["--times needs a value"]),
    "no number": (["MODEL", "--times", "ten"], ["--times", "'ten'"]),
    "no calls": (["MODEL", "--times", "0"], ["--times", "1 to"]),
    "negative": (["MODEL", "--threads", "-1"], ["--threads", "'-1'"]),
}


@pytest.mark.parametrize("name", USAGE)
def test_a_wrong_command_says_how_it_goes(name, built):
    _, folder = built("residual", "tvm")
    words, told = USAGE[name]
    done = _start(folder, *(folder / "model" if word == "MODEL" else word for word in words))
    assert done.returncode == 2
    for word in told:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fxopt-interface 2\n", "txt:1: not an interface of version 1"),
        ("", "empty"),
        ("fxopt-interface 1\n\nwhat is this\n", "txt:3: unknown word 'what'"),
        ("fxopt-interface 1\ninput x int3 4\n", "txt:2: unknown dtype int3"),
        ("fxopt-interface 1\ninput x int8 4\nexample 4 4\n", "txt:3: the example has other dims"),
    ],
)
def test_an_interface_that_is_not_understood_is_refused(text, told, built, tmp_path):
    _, folder = built("residual", "tvm")
    (tmp_path / "interface.txt").write_text(text)
    done = _start(folder, tmp_path)
    assert done.returncode == 2
    assert told in done.stderr


def test_a_broken_model_is_a_message_not_a_crash(residual, tmp_path):
    _, folder = residual
    for name in ("model.so", "model.params", "model.onnx"):
        if (folder / "model" / name).exists():
            broken = shutil.copytree(folder / "model", tmp_path / name)
            (broken / name).write_bytes(b"no model at all" * 9)
            done = _start(folder, broken)
            assert done.returncode == 1, done
            assert name in done.stderr
            (broken / name).unlink()
            assert _start(folder, broken).returncode == 1


def test_outputs_that_cannot_be_written_are_a_failure(residual, tmp_path):
    _, folder = residual
    (tmp_path / "taken").write_text("")
    done = _start(folder, folder / "model", "--out", tmp_path / "taken")
    assert done.returncode == 1
    assert "taken" in done.stderr


def test_times_have_quartiles_around_the_median_and_threads_give_the_same_numbers(residual):
    _, folder = residual
    done = _start(folder, folder / "model", "--times", 20, "--threads", 1)
    low, high = (float(x) for x in re.findall(r"quartiles ([\d.]+) to ([\d.]+) ms", done.stdout)[0])
    assert low <= float(re.findall(r"median ([\d.]+) ms", done.stdout)[0]) <= high
    assert float(re.findall(r"memory ([\d.]+) MB", done.stdout)[0]) > 1
    by_default = _start(folder, folder / "model")
    lines = [[line for line in out.stdout.splitlines() if line.startswith("output")] for out in (done, by_default)]
    assert lines[0] == lines[1]
    shown = _start(folder, folder / "model", "--print", 3).stdout
    assert len(re.findall(r"output.*: (.*) \.\.\.", shown)[0].split()) == 3


def test_options_of_the_backend_reach_the_program(tmp_path):
    (tmp_path / "model.so").write_bytes(b"calls nothing")
    assert tvm_standalone(tmp_path, {}, 3).options == {"threads": "3"}
    session = onnx_standalone(2, "basic", False, float16=True).options
    assert session == {
        "optimization_level": "1", "arena": "0", "threads": "2",
        "disabled_optimizers": "WeightBiasQuantization;MatmulTransposeFusion",
    }  # fmt: skip


def test_a_session_has_optimizers_off_by_their_names(built, tmp_path):
    """A product in float between quantized values: left to itself, the runtime quantizes its weights as well."""
    import onnx
    from onnx import helper, numpy_helper

    _, folder = built("residual", "onnx")
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype("f4")
    constants = {"w": weight, "step": np.float32(0.02), "zero": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "step", "zero"], ["b"]),
        helper.make_node("Gemm", ["b", "w"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "step", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["d", "step", "zero"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 8]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "model.onnx"
    )
    x = np.random.default_rng(1).standard_normal((4, 8)).astype("f4")
    np.save(tmp_path / "x.npy", x)
    interface = "fxopt-interface 1\ninput x float32 4 8\nexample 4 8\noutput y float32 4 8\n"
    results = {}
    for names in ("", "Another;WeightBiasQuantization"):
        option = f"option disabled_optimizers {names}\n" if names else ""
        (tmp_path / "interface.txt").write_text(interface + option)
        done = _start(folder, tmp_path, tmp_path / "x.npy", "--out", tmp_path)
        assert done.returncode == 0, done.stderr
        results[names] = np.load(tmp_path / "output0.npy")
    rounded = np.clip(np.rint(x / np.float32(0.02)), -128, 127) * np.float32(0.02)
    expected = np.clip(np.rint(rounded @ weight / np.float32(0.02)), -128, 127) * np.float32(0.02)
    assert np.mean(np.abs(results["Another;WeightBiasQuantization"] - expected) > 1e-5) < 0.1  # of a tie, either side
    assert np.mean(np.abs(results[""] - expected) > 1e-5) > 0.1, (
        "the runtime does no such thing: the option is needless"
    )


class _Sorted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.topk(x, 3).values


@pytest.mark.slow
def test_the_library_that_sorts_is_there_when_a_model_sorts(tmp_path, built):
    artifact = _lower(capture(_Sorted(), (torch.randn(2, 9),)), "tvm", tmp_path / "artifact")
    folder = _unpack(artifact, tmp_path)
    (x,), _ = fxopt.load(artifact).random_inputs(3)
    (got,) = _run(folder, x)
    np.testing.assert_array_equal(got, np.sort(x)[:, :-4:-1])
    assert (folder / "lib" / "libtvm_runtime_extra.so").exists()
    assert not (built("residual", "tvm")[1] / "lib" / "libtvm_runtime_extra.so").exists()


@pytest.mark.slow
def test_the_same_artifact_gives_the_same_file_and_its_command_the_same_program(built, tmp_path):
    artifact, folder = built("residual", "tvm")
    files = [bundle(artifact, tmp_path / place / "model.tar.gz").path for place in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes()[:2] == b"\x1f\x8b", "not compressed by gzip"
    with tarfile.open(files[0]) as tar:
        entries = tar.getmembers()
    assert [e.name for e in entries] == sorted(e.name for e in entries)
    assert {(e.mtime, e.uid, e.gid, e.uname, e.gname) for e in entries} == {(0, 0, 0, "", "")}
    assert {e.name: e.mode for e in entries}["bin/run"] == 0o755
    again = tmp_path / "again"
    with tarfile.open(files[0]) as tar:
        tar.extractall(again, filter="data")
    (again / "bin" / "run").unlink()
    command = next(line for line in (again / "src" / "README").read_text().splitlines() if line.startswith("    g++"))
    subprocess.run(command, shell=True, check=True, cwd=again)
    assert (again / "bin" / "run").read_bytes() == (folder / "bin" / "run").read_bytes()


def test_a_bundle_is_an_artifact_with_what_it_needs_and_nothing_else(residual):
    _, folder = residual
    libraries = {p.name for p in (folder / "lib").iterdir()}
    assert libraries in ({"libtvm_ffi.so", "libtvm_runtime.so"}, {"libonnxruntime.so.1"})
    assert json.loads((folder / "model" / "manifest.json").read_text())["files"]
    fxopt.load(folder / "model")
    readme = (folder / "README").read_text()
    assert re.search(r"glibc 2\.\d+ or newer", readme)
    assert "x: float32[batch, 3, 8, 8]" in readme
    assert {p.parts[0] for p in (q.relative_to(folder) for q in folder.rglob("*"))} >= {"bin", "lib", "licenses", "src"}


def test_words_of_an_interface_are_words():
    """A dim may be a sum, and a key of outputs anything; both are one word to a program that reads words."""
    facts = {
        "dims": {"batch": [1, 8], "length": [None, None]},
        "inputs": [
            {"name": "x", "shape": ["batch", "2*length + 1"], "example": [1, 5], "dtype": "float32"},
            {"name": "flag", "constant": True},
        ],
        "outputs": [{"dtype": "int64", "example": []}, {"dtype": "bool", "example": [5]}],
        "in_tree": ["tuple", [0, 1]],
        "out_tree": ["tuple", [["dict", {"a key": 0, "b": ["list", [1]]}], None, 0]],
    }
    text = interface_text(Interface.model_validate(facts), Target("board", "aarch64-linux-gnu"), {"threads": "2"})
    assert text.splitlines() == [
        "fxopt-interface 1", "target board, aarch64-linux-gnu", "dim batch 1 8", "dim length 0 any",
        "input x float32 batch 2*length+1", "example 1 5", "output output[0].akey int64", "output output[0].b[0] bool 5",
        "option threads 2",
    ]  # fmt: skip
    facts["inputs"][0]["dtype"] = "complex64"
    with pytest.raises(BackendError, match="the input 'x' is complex64"):
        interface_text(Interface.model_validate(facts), Target("board", "aarch64-linux-gnu"), {})


def _retarget(artifact: Path, out: Path, **facts: object) -> Path:
    """A copy of an artifact that says it was built for another target."""
    shutil.copytree(artifact, out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["target"] |= facts
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def _command_line(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from fxopt.cli.main import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.mark.slow
def test_a_missed_flash_says_by_how_much_and_has_another_name_than_that_asked_for(built, tmp_path):
    artifact, folder = built("residual", "tvm")
    small = _retarget(artifact, tmp_path / "small", flash=5_000_000)
    out, kept = tmp_path / "b.tar.gz", tmp_path / "b.missed.tar.gz"
    out.write_text("an old one")
    done = _command_line("bundle", small, "--out", out)
    assert done.returncode == 1
    assert out.read_text() == "an old one"
    with tarfile.open(kept) as tar:
        total = sum(entry.size for entry in tar)
        assert b"tar xzf b.missed.tar.gz -C b.missed" in tar.extractfile("README").read()
    assert f"tar xzf {kept.name}" in done.stdout
    assert f"kept as {kept}; nothing was changed at {out}" in done.stderr
    assert f"BudgetError: the bundle is {total / 1000:,.1f} kB unpacked" in done.stderr
    assert f"{(total - 5_000_000) / 1000:,.1f} kB too large" in done.stderr
    assert all(p.name in done.stdout for p in (folder / "lib").iterdir())
    enough = _retarget(artifact, tmp_path / "enough", flash=total + 100)
    made = bundle(enough, out)
    assert (made.missed, made.path) == (None, out)
    assert tarfile.is_tarfile(out)
    assert not kept.exists(), "the miss before it is of no use any more"


@pytest.mark.parametrize("mine", ["no archive", "another archive", "a bundle that fits"])
def test_what_is_no_bundle_that_missed_is_never_lost(mine, built, tmp_path):
    artifact, _ = built("residual", "tvm")
    kept = tmp_path / "out" / "b.missed.tar.gz"
    kept.parent.mkdir()
    if mine == "a bundle that fits":
        bundle(artifact, kept)
    elif mine == "another archive":
        with tarfile.open(kept, "w:gz") as tar:
            tar.add(artifact, "mine")
    else:
        kept.write_text("mine")
    before = kept.read_bytes()
    for flash in (1000, 10**9):
        with pytest.raises(UsageError, match=r"b\.missed\.tar\.gz is not a bundle that is too large"):
            bundle(_retarget(artifact, tmp_path / str(flash), flash=flash), kept.with_name("b.tar.gz"))
    assert kept.read_bytes() == before
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def _message(artifact: Path, tmp_path: Path, wheels: Path | None = None) -> str:
    """What bundling says that cannot be done, which must leave nothing and an old file as it is."""
    out = tmp_path / "out" / "b.tar.gz"
    out.parent.mkdir(exist_ok=True)
    out.write_text("an old one")
    with pytest.raises((BackendError, UsageError)) as caught:
        bundle(artifact, out, wheels)
    assert [p.name for p in out.parent.iterdir()] == ["b.tar.gz"]
    assert out.read_text() == "an old one"
    return str(caught.value)


def test_no_compiler_names_the_package(built, tmp_path, monkeypatch):
    artifact, _ = built("residual", "tvm")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install g++" in _message(artifact, tmp_path)
    other = _retarget(artifact, tmp_path / "other", triple="riscv64-linux-gnu")
    assert "apt install g++-riscv64-linux-gnu" in _message(other, tmp_path)


def test_a_compiler_that_fails_is_quoted(built, tmp_path, monkeypatch):
    artifact, _ = built("residual", "tvm")
    (tmp_path / "g++").write_text("#!/bin/sh\necho 'main.cc:1: error: no such header' >&2\nexit 1\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bundling, "compile_program", compile_program)
    assert "error: no such header" in _message(artifact, tmp_path)


def test_what_cannot_be_bundled_says_why(built, tmp_path):
    artifact, _ = built("residual", "tvm")
    eager = _lower(_program("structured"), "eager", tmp_path / "eager")
    assert "'eager' has no program" in _message(eager, tmp_path)
    assert "is this the folder of an artifact?" in _message(tmp_path, tmp_path)
    wasm = _retarget(artifact, tmp_path / "wasm", triple="wasm32-unknown-emscripten", name="wasm32")
    assert "Linux with glibc" in _message(wasm, tmp_path)
    changed = shutil.copytree(artifact, tmp_path / "changed")
    name = next(p.name for p in changed.glob("model.*"))
    (changed / name).write_bytes(b"")
    assert "differs from what was built" in _message(changed, tmp_path)
    for name in ("b.zip", ".tar.gz"):
        with pytest.raises(UsageError, match=r"ends in \.tar\.gz"):
            bundle(artifact, tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another --out"):
        bundle(artifact, tmp_path / "file" / "b.tar.gz")


@pytest.fixture
def no_index(monkeypatch, tmp_path):
    """A package index that is an empty folder, and an empty cache."""
    (tmp_path / "index").mkdir()
    for key in [key for key in os.environ if key.startswith("PIP_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("FXOPT_CACHE", str(tmp_path / "cache" / "fxopt"))
    monkeypatch.setattr(bundling, "missing_compiler", lambda triple: None)
    return tmp_path / "index"


@pytest.fixture
def onnx_artifact(built):
    return built("structured", "onnx")[0]


def _wheel(folder: Path, version: str, architecture: str) -> Path:
    """A wheel that has the files of ONNX Runtime's, without what is in them."""
    folder.mkdir(exist_ok=True)
    path = folder / f"onnxruntime-{version}-py3-none-manylinux_2_27_{architecture}.manylinux_2_28_{architecture}.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name in (f"capi/libonnxruntime.so.{version}", "LICENSE", "ThirdPartyNotices.txt"):
            file.writestr(f"onnxruntime/{name}", version)
        about = f"Metadata-Version: 2.1\nName: onnxruntime\nVersion: {version}\n"
        file.writestr(f"onnxruntime-{version}.dist-info/METADATA", about)
        file.writestr(f"onnxruntime-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n")
    return path


def test_a_wheel_that_is_not_there_and_an_index_that_is_not_reached_are_told_apart(
    onnx_artifact, no_index, tmp_path, monkeypatch
):
    board = _retarget(onnx_artifact, tmp_path / "board", triple="riscv64-linux-gnu", name="board")
    version = importlib.metadata.version("onnxruntime")
    told = _message(board, tmp_path)
    assert f"no wheel of onnxruntime {version} for Linux on riscv64" in told
    assert "--wheels FOLDER" in told
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    assert "cannot reach the package index" in _message(board, tmp_path)


def _fake_program(stage: Path, *_: object) -> str:
    (stage / "bin").mkdir()
    (stage / "bin" / "run").write_text("")
    return "g++"


def _library(path: Path) -> str:
    with tarfile.open(path) as tar:
        file = tar.extractfile("lib/libonnxruntime.so.1")
        assert file is not None
        return file.read().decode()


def test_a_downloaded_wheel_is_kept_and_is_that_of_the_build(onnx_artifact, no_index, tmp_path, monkeypatch):
    monkeypatch.setattr(bundling, "compile_program", _fake_program)
    board = _retarget(onnx_artifact, tmp_path / "board", triple="riscv64-linux-gnu", name="board")
    version = importlib.metadata.version("onnxruntime")
    for other in ("1.0.0", "99.0.0"):
        _wheel(no_index, other, "riscv64")
    _wheel(no_index, version, "aarch64")
    right = _wheel(no_index, version, "riscv64")
    made = bundle(board, tmp_path / "b.tar.gz")
    assert _library(made.path) == version
    assert not made.notes
    right.unlink()
    assert _library(bundle(board, tmp_path / "again.tar.gz").path) == version


def test_wheels_of_a_folder_come_first_and_another_version_is_told(onnx_artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(bundling, "compile_program", _fake_program)
    architecture, version = host().architecture, importlib.metadata.version("onnxruntime")
    _wheel(tmp_path / "w", "1.2.3", "sparc")
    assert "there are: none" in _message(onnx_artifact, tmp_path, tmp_path / "w")
    _wheel(tmp_path / "w", "1.2.3", architecture)
    made = bundle(onnx_artifact, tmp_path / "b.tar.gz", tmp_path / "w")
    assert _library(made.path) == "1.2.3"
    assert f"was {version} in the build" in made.notes[0]
    _wheel(tmp_path / "w", "1.2.4", architecture)
    assert "1.2.3" in _message(onnx_artifact, tmp_path, tmp_path / "w"), "which of two is not for us to guess"
    _wheel(tmp_path / "w", version, architecture)
    assert _library(bundle(onnx_artifact, tmp_path / "c.tar.gz", tmp_path / "w").path) == version
    assert "no such folder" in _message(onnx_artifact, tmp_path, tmp_path / "nowhere")
    _wheel(tmp_path / "w", version, architecture).write_bytes(b"PK, but no archive")
    assert "get the wheel again" in _message(onnx_artifact, tmp_path, tmp_path / "w")


def test_a_model_of_tvm_runs_in_the_version_that_compiled_it_alone(built, tmp_path):
    artifact = shutil.copytree(built("residual", "tvm")[0], tmp_path / "artifact")
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["versions"]["apache-tvm"] = "0.26.0"
    (artifact / "manifest.json").write_text(json.dumps(manifest))
    assert "compiled by apache-tvm 0.26.0" in _message(artifact, tmp_path)


# On another architecture, in an emulator


@pytest.fixture(scope="module")
def device_wheels(emulated_root, tmp_path_factory):
    """Wheels with what the emulated device has installed."""
    folder = tmp_path_factory.mktemp("wheels")
    site = emulated_root / "site"
    for info in [*site.glob("apache_tvm*.dist-info"), *site.glob("onnxruntime-*.dist-info")]:
        package = {"apache_tvm": "tvm", "apache_tvm_ffi": "tvm_ffi"}.get(info.name.split("-")[0], "onnxruntime")
        name = info.name.removesuffix(".dist-info")
        with zipfile.ZipFile(folder / f"{name}-py3-none-manylinux_2_28_aarch64.whl", "w") as file:
            for path in [*info.rglob("*"), *(site / package).rglob("*")]:
                if path.is_file() and "compiler" not in path.name:
                    file.write(path, path.relative_to(site))
    return folder


def _emulator(root: Path, cpu: str = "cortex-a76") -> list[str]:
    return [shutil.which("qemu-aarch64-static") or "", "-L", str(root), "-cpu", cpu]


@pytest.fixture(scope="module")
def _cross_compiler():
    if not shutil.which("aarch64-linux-gnu-g++"):
        pytest.skip("aarch64-linux-gnu-g++ is not installed: apt-get install g++-aarch64-linux-gnu")


@pytest.mark.slow
@pytest.mark.usefixtures("_cross_compiler")
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_numbers_of_eager_on_another_architecture(backend, emulated_root, device_wheels, tmp_path):
    program = _program("residual")
    artifact = _lower(program, backend, tmp_path / "artifact", find_target("raspberry_pi_5"))
    folder = _unpack(artifact, tmp_path, device_wheels)
    for batch in (1, 2, 3):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 8, 8)).astype("f4")
        (got,) = _run(folder, x, emulator=_emulator(emulated_root))
        with torch.no_grad():
            np.testing.assert_allclose(got, program(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("_cross_compiler")
def test_integers_on_a_processor_that_has_the_instruction_and_on_one_that_lacks_it(
    emulated_root, device_wheels, tmp_path
):
    target = find_target("raspberry_pi_5")
    program, x = _quantized(target)
    folder = _unpack(_lower(program, "tvm", tmp_path / "artifact", target), tmp_path, device_wheels)
    (got,) = _run(folder, x.numpy(), emulator=_emulator(emulated_root))
    with torch.no_grad():
        assert sqnr(program(x), torch.from_numpy(got)) > 40
    done = _start(folder, folder / "model", emulator=_emulator(emulated_root, "cortex-a72"))
    assert done.returncode == 1
    assert "lacks an instruction" in done.stderr
    assert "raspberry_pi_5" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("_cross_compiler")
def test_another_machine_is_not_this_one_with_a_flag(emulated_root, device_wheels, tmp_path):
    """All that is in the file is of the target's architecture."""
    target = dataclasses.replace(find_target("raspberry_pi_5"), flash=1000)
    artifact = _lower(_program("structured"), "tvm", tmp_path / "artifact", target)
    made = bundle(artifact, tmp_path / "b.tar.gz", device_wheels)
    assert made.missed is not None
    assert "raspberry_pi_5" in made.missed
    with tarfile.open(made.path) as tar:
        for name in [n for n in tar.getnames() if n.startswith(("bin/", "lib/")) or n.endswith(".so")]:
            file = tar.extractfile(name)
            assert file is not None
            head = file.read(20)
            assert head[:4] == b"\x7fELF"
            assert int.from_bytes(head[18:20], "little") == 183, f"{name} is not for aarch64"


# ---- tokens --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> Path:
    """An artifact of a small language model, and its bundle unpacked."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tokens")
    recipe = fxopt.Recipe(model="causal_lm:llama", passes=("clean_up",), backend="onnx(threads=1)")
    fxopt.build(recipe, folder / "artifact", measure=False)
    return _unpack(folder / "artifact", folder)


def _tokens(folder: Path, *words: object) -> list[list[int]]:
    done = _start(folder, folder / "model", "--generate", *words)
    assert done.returncode == 0, done.stderr
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("tokens")]
    return [list(map(int, line)) for line in lines]


@pytest.mark.slow
def test_tokens_are_those_that_python_makes(language_model):
    prompts = [[17, 4, 80, 33, 9], [9, 33], [120]]
    words = [",".join(map(str, prompt)) for prompt in prompts]
    python = fxopt.load(language_model / "artifact")
    made = python.generate(prompts, 40)
    assert _tokens(language_model, 40, *words) == made
    stop = made[1][5]
    assert _tokens(language_model, 40, *words, "--stop", stop) == python.generate(prompts, 40, stop=[stop])
    assert "--generate" in (language_model / "README").read_text()


@pytest.mark.slow
def test_tokens_are_drawn_by_a_seed_from_the_likely_ones(language_model):
    options = ("--temperature", 3, "--top-k", 4)
    drawn = [_tokens(language_model, 1, *["17,4,80"] * 200, *options, "--seed", seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    python = fxopt.load(language_model / "artifact").generate([[17, 4, 80]] * 400, 1, temperature=3.0, top_k=4, seed=0)
    counts = [np.bincount(np.ravel(rows), minlength=256) / len(rows) for rows in (drawn[0] + drawn[2], python)]
    assert (counts[0] > 0).sum() == 4
    assert np.abs(counts[0] - counts[1]).max() < 0.12
    best = _tokens(language_model, 1, "17,4,80")
    assert _tokens(language_model, 1, "17,4,80", "--temperature", 3, "--top-p", 0.01) == best


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--generate needs a prompt"),
        (("17,x",), "expected a number, got 'x'"),
        (("17,256",), "token 256 is not one of the model's 0 to 255"),
        (("17,4", "--temperature", "-1"), "--temperature: expected a number from 0"),
        (("17,4", "--top-p", "0"), "--top-p: expected a number"),
        ((",".join(["1"] * 64),), "64 tokens and 3 new ones are more than the 64 positions"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(words, told, language_model):
    done = _start(language_model, language_model / "model", "--generate", 3, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
