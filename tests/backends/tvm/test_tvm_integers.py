"""Quantized programs in the TVM backend: eager's codes from every form of kernel, by every instruction there is here."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import tuned
from cases.manifests import bare_manifest
from cases.other_dims import Clip, Wave
from emulated_amx import COMPILER, use_emulated_amx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, capture
from fxopt.backends.tvm import Tvm
from fxopt.backends.tvm import runtime as tvm_runtime
from fxopt.backends.tvm.machine.amx_registers import Registers
from fxopt.backends.tvm.machine.dot_instructions import instruction_of
from fxopt.backends.tvm.machine.processor import processor_of
from fxopt.backends.tvm.tiling.task import Choices, Task, Tile
from fxopt.driver.build import build
from fxopt.driver.lower import lower
from fxopt.driver.recipe import Recipe
from fxopt.errors import BackendError
from fxopt.numerics.error_metrics import sqnr
from fxopt.runtime.artifact import Artifact
from fxopt.target import Target, find_target
from fxopt.target.detect import host
from fxopt.testing import small_workload

if reason := Tvm().missing():
    pytest.skip(reason, allow_module_level=True)

importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the ops
ops = torch.ops.quantized_decomposed
_LEVELS = (
    frozenset[str](),
    frozenset({"amx-int8"}),
    frozenset({"amx-int8", "avx512-vnni", "avx-vnni", "avx512f", "neon-dotprod"}),
)
"""What the target must lack for another instruction to be the best there is: AMX, VNNI, pairs of AVX2; or sdot, smlal."""


_EMULATED = "avx512-vnni" in host().features and "amx-int8" not in host().features and COMPILER is not None
"""Whether kernels for AMX run with functions in place of its instructions, as this machine has none."""


def _targets() -> list[Target]:
    found = {}
    for without in _LEVELS:
        target = dataclasses.replace(host(), features=host().features - without)
        found[instruction_of(processor_of(target)).kind] = target
    if _EMULATED:
        # a processor with AMX has AVX512-FP16 too, which LLVM uses, and which this one may lack
        features = host().features | {"amx-tile", "amx-int8"}
        found["amx"] = dataclasses.replace(host(), cpu="cascadelake", features=features)
    return list(found.values())


def _of_each(targets: list[Target]) -> Iterator[Any]:
    """Parameters by the kind of instruction; those that this machine has better ones than, or none of, are for CI."""
    own = instruction_of(processor_of(host())).kind
    for target in targets:
        kind = instruction_of(processor_of(target)).kind
        yield pytest.param(target, id=kind, marks=[pytest.mark.slow] * (kind != own))


TARGETS = _targets()
_each_instruction = pytest.mark.parametrize("target", list(_of_each(TARGETS)))
_examples = pytest.mark.parametrize("examples", [2, pytest.param(12, marks=pytest.mark.slow)])
"""How many layers are drawn: a build takes a second."""


def _drawn(examples: int, check: Callable[[Any], None]) -> None:
    """Run a check on that many drawn layers."""
    settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])(given(st.data())(check))()


@pytest.fixture(autouse=True)
def _tile_registers(tmp_path_factory, monkeypatch):
    with use_emulated_amx(tmp_path_factory.getbasetemp(), monkeypatch) if _EMULATED else contextlib.nullcontext():
        yield


def _quantized(module: nn.Module, *inputs: torch.Tensor) -> Program:
    program = capture(module.eval(), inputs)
    where = {"workload": small_workload(program), "target": host(), "backend": Tvm()}
    return Pipeline.parse("quantize").run(program, watchers=(), **where).program


def _lower(program: Program, out: Path, target: Target) -> Artifact:
    return lower(program, Tvm(threads=1), target, out)[1]


class _Layer(nn.Module):
    """A convolution between Q and DQ, with zero points of its own choice, whose output is codes and float.

    With weights up to 64, no pair of products overflows 16 bits.
    """

    def __init__(self, conv: nn.Conv2d, zero: int, out_zero: int, activation: str, largest: int) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self.zero, self.out_zero, self.activation = zero, out_zero, activation
        shape = conv.weight.shape
        self.register_buffer("weight", torch.randint(-largest, largest + 1, shape, dtype=torch.int8))
        self.register_buffer("scale", (torch.rand(len(conv.weight)) * 0.02 + 0.002) * 127 / largest)
        self.register_buffer("zeros", torch.zeros(len(conv.weight), dtype=torch.int8))
        self.register_buffer("bias", torch.randn(len(conv.weight)))

    def forward(self, x):
        codes = ops.quantize_per_tensor(x, 0.03, self.zero, 0, 255, torch.uint8)
        real = ops.dequantize_per_tensor(codes, 0.03, self.zero, 0, 255, torch.uint8)
        weight = ops.dequantize_per_channel(self.weight, self.scale, self.zeros, 0, -127, 127, torch.int8)
        y = F.conv2d(real, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        y = {"none": lambda v: v, "relu": F.relu, "relu6": F.relu6}[self.activation](y)
        q = ops.quantize_per_tensor(y, self.step, self.out_zero, 0, 255, torch.uint8)
        return ops.dequantize_per_tensor(q, self.step, self.out_zero, 0, 255, torch.uint8)

    step = 0.07


@_each_instruction
@_examples
def test_convolutions_of_every_kind_give_eagers_codes(target, examples, tmp_path_factory):
    """Groups, depthwise, strides, dilation, tails of channels and columns, borders, zero points at both ends."""

    def check(data):
        groups = data.draw(st.sampled_from([1, 1, 2, 3, "each"]), "groups")
        inputs = data.draw(st.integers(1, 40), "channels")
        outputs = data.draw(st.integers(1, 70), "outputs")
        if groups == "each":
            outputs = groups = inputs
        else:
            inputs, outputs = inputs * groups, outputs * groups
        kernel = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 5)), "kernel")
        conv = nn.Conv2d(
            inputs, outputs, kernel, data.draw(st.tuples(st.integers(1, 2), st.integers(1, 3)), "stride"),
            data.draw(st.tuples(st.integers(0, 2), st.integers(0, 3)), "padding"),
            data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)), "dilation"), groups,
        )  # fmt: skip
        size = data.draw(st.tuples(st.integers(9, 20), st.integers(9, 37)), "size")
        zeros = data.draw(st.sampled_from([(0, 0), (128, 117), (255, 3), (7, 255)]), "zero points")
        torch.manual_seed(0)
        largest = data.draw(st.sampled_from([64, 127]), "largest weight")
        module = _Layer(conv, *zeros, data.draw(st.sampled_from(["none", "relu", "relu6"]), "activation"), largest)
        program = capture(module, (torch.randn(2, inputs, *size),))
        artifact = _lower(program, tmp_path_factory.mktemp("layer"), target)
        assert artifact.manifest.facts["integer_contractions"] == 1
        assert artifact.manifest.facts["float_contractions"] == 0
        for batch in (1, 3):
            x = torch.randn(batch, inputs, *size) * 3
            _one_step(module(x), artifact(x.numpy()), module.step)

    _drawn(examples, check)


def _one_step(want: torch.Tensor, got: np.ndarray, step: float, share: float = 0.002) -> None:
    """Codes differ by one step at most, and seldom: where float sums lie on the border of two codes."""
    apart = (want - torch.from_numpy(got)).abs() / step
    assert apart.max() < 1.01
    assert (apart > 0.5).float().mean() <= max(share, 1.5 / apart.numel())


class _Product(nn.Module):
    """A linear on codes, whose output is float."""

    def __init__(self, inputs: int, outputs: int, zero: int, *, bias: bool) -> None:
        super().__init__()
        self.zero = zero
        self.register_buffer("weight", torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8))
        self.register_buffer("scale", torch.rand(outputs) * 0.02 + 0.002)
        self.register_buffer("zeros", torch.zeros(outputs, dtype=torch.int8))
        self.register_buffer("bias", torch.randn(outputs) if bias else None)

    def forward(self, x):
        real = ops.dequantize_per_tensor(
            ops.quantize_per_tensor(x, 0.03, self.zero, 0, 255, torch.uint8), 0.03, self.zero, 0, 255, torch.uint8
        )
        weight = ops.dequantize_per_channel(self.weight, self.scale, self.zeros, 0, -127, 127, torch.int8)
        return F.gelu(F.linear(real, weight, self.bias))


@_each_instruction
@_examples
def test_products_of_every_kind_are_exact_sums(target, examples, tmp_path_factory):
    """Odd depths and columns, few and many rows, more dims; the sums are integers, so float64 gives the same."""

    def check(data):
        inputs, outputs = data.draw(st.integers(1, 150), "inputs"), data.draw(st.integers(1, 90), "outputs")
        lead = data.draw(st.sampled_from([(), (1,), (7,), (33,), (3, 5)]), "rows")
        torch.manual_seed(0)
        module = _Product(
            inputs, outputs, data.draw(st.sampled_from([0, 128, 255]), "zero"), bias=data.draw(st.booleans())
        )
        program = capture(module, (torch.randn(2, *lead, inputs),))
        artifact = _lower(program, tmp_path_factory.mktemp("product"), target)
        assert artifact.manifest.facts["integer_contractions"] == 1
        for batch in (1, 2, 19):
            x = torch.randn(batch, *lead, inputs) * 3
            codes = (torch.round(x * np.float32(1 / np.float32(0.03))) + module.zero).clamp(0, 255) - module.zero
            sums = codes.double() @ module.weight.double().T * (module.scale.double() * 0.03)
            exact = F.gelu(sums if module.bias is None else sums + module.bias.double())
            largest = (
                (codes.abs() + module.zero).double() @ module.weight.double().abs().T * (module.scale.double() * 0.03)
            )
            np.testing.assert_allclose(artifact(x.numpy()), exact, rtol=1e-4, atol=1e-6 * float(largest.max()) + 1e-5)

    _drawn(examples, check)


class _Attending(nn.Module):
    """A product of two values in codes, of which the right one may be turned, scaled; as float and as codes."""

    def __init__(self, zeros: tuple[int, int], *, turned: bool, signed: bool) -> None:
        super().__init__()
        self.zeros, self.turned, self.signed = zeros, turned, signed

    def codes(self, a, b):
        a = ops.quantize_per_tensor(a, 0.03, self.zeros[0], 0, 255, torch.uint8)
        kind = (self.zeros[1] - 128, -128, 127, torch.int8) if self.signed else (self.zeros[1], 0, 255, torch.uint8)
        return (a, 0.03, self.zeros[0], 0, 255, torch.uint8), (ops.quantize_per_tensor(b, 0.02, *kind), 0.02, *kind)

    def forward(self, a, b):
        a, b = (ops.dequantize_per_tensor(*code) for code in self.codes(a, b))
        y = (a @ (b.transpose(-2, -1) if self.turned else b)) * 0.125
        q = ops.quantize_per_tensor(y, self.step, 99, 0, 255, torch.uint8)
        return y, ops.dequantize_per_tensor(q, self.step, 99, 0, 255, torch.uint8)

    step = 0.05


@_each_instruction
@_examples
def test_products_of_two_values_are_exact_sums_less_their_zero_points(target, examples, tmp_path_factory):
    """As of queries and keys: tails of depth and columns, zero points on both sides, any batch."""

    def check(data):
        rows, depth, columns = (data.draw(st.integers(1, most), "sizes") for most in (40, 70, 75))
        lead = data.draw(st.sampled_from([(), (3,), (2, 2)]), "heads")
        zeros = data.draw(st.sampled_from([(0, 128), (128, 128), (255, 3), (7, 255), (0, 0)]), "zero points")
        module = _Attending(zeros, turned=data.draw(st.booleans(), "turned"), signed=data.draw(st.booleans(), "signed"))
        right = (columns, depth) if module.turned else (depth, columns)
        torch.manual_seed(0)
        program = capture(module, (torch.randn(2, *lead, rows, depth), torch.randn(2, *lead, *right)))
        artifact = _lower(program, tmp_path_factory.mktemp("pairs"), target)
        facts = artifact.manifest.facts
        assert (facts["integer_contractions"], facts["float_because"]) == (1, [])
        for batch in (1, 2, 5):
            a, b = torch.randn(batch, *lead, rows, depth) * 3, torch.randn(batch, *lead, *right) * 2
            (one, _, one_zero, *_), (two, _, two_zero, *_) = module.codes(a, b)
            two = two.transpose(-2, -1) if module.turned else two
            exact = (one.double() - one_zero) @ (two.double() - two_zero) * (0.03 * 0.02 * 0.125)
            real, codes = artifact(a.numpy(), b.numpy())
            np.testing.assert_allclose(real, exact, rtol=1e-5, atol=1e-7)
            _one_step(module(a, b)[1], codes, module.step)

    _drawn(examples, check)


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.out = nn.Linear(36, 108), nn.Linear(36, 36)

    def forward(self, x):
        heads = self.heads(x).unflatten(-1, (3, 3, 12)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*heads.unbind())
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.fixture(scope="module")
def attention() -> tuple[nn.Module, Program]:
    """The net, and the program of it in int8."""
    torch.manual_seed(0)
    net = _Attention()
    return net, _quantized(net, torch.randn(2, 21, 36))


@_each_instruction
def test_attention_is_computed_in_integers(target, attention, tmp_path):
    net, program = attention
    artifact = _lower(program, tmp_path, target)
    facts = artifact.manifest.facts
    assert (facts["integer_contractions"], facts["float_because"]) == (4, [])
    x = torch.randn(5, 21, 36)
    want, got = program(x), torch.from_numpy(artifact(x.numpy()))
    assert sqnr([want], [got]) > sqnr([net(x)], [want]) + 15


class _Blocks(nn.Module):
    """Residual sums, depthwise layers, pools and a concatenation, as quantize puts them between Q and DQ."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 20, 3, 2, 1), nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.point, self.wide = nn.Conv2d(20, 20, 1), nn.Conv2d(20, 12, 3, padding=1)
        self.last, self.head = nn.Conv2d(52, 24, 1), nn.Linear(24, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 1, 1)
        y = F.relu(self.point(F.relu6(self.deep(x))) + x)
        y = torch.cat([y, F.relu(self.wide(x)), F.avg_pool2d(y, 3, 1, 1)], 1)
        return self.head(F.relu(self.last(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def blocks() -> tuple[nn.Module, Program]:
    """The net, and the program of it in int8."""
    torch.manual_seed(0)
    net = _Blocks()
    return net, _quantized(net, torch.randn(2, 3, 22, 26))


@pytest.fixture(scope="module")
def built(blocks, tmp_path_factory) -> Callable[[Target], Artifact]:
    """Its artifact for a target, each built once."""
    return functools.cache(lambda target: _lower(blocks[1], tmp_path_factory.mktemp("blocks"), target))


@_each_instruction
def test_what_lies_between_two_layers_stays_in_codes(target, blocks, built):
    (net, program), artifact = blocks, built(target)
    facts = artifact.manifest.facts
    assert (facts["integer_contractions"], facts["float_contractions"], facts["float_because"]) == (6, 0, [])
    x = torch.randn(5, 3, 22, 26)
    want, got = program(x), torch.from_numpy(artifact(x.numpy()))
    assert sqnr([want], [got]) > sqnr([net(x)], [want]) + 15


@pytest.mark.slow
def test_all_instructions_give_the_same_numbers(built):
    """The sums are integers, and what is done with them is the same code."""
    x = np.random.default_rng(0).standard_normal((3, 3, 22, 26)).astype(np.float32)
    outputs = [built(target)(x) for target in TARGETS]
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], rtol=1e-6, atol=1e-7)


@pytest.fixture(scope="module")
def wide() -> Program:
    """Convolutions with many channels in int8: each form of tile fits or overhangs some."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(16, 80, 3, padding=1), nn.ReLU(), nn.Conv2d(80, 128, 1), nn.ReLU(), nn.Conv2d(128, 64, 3, 5),
        nn.Flatten(), nn.Linear(64 * 14, 24),
    )  # fmt: skip
    return _quantized(net, torch.randn(2, 16, 9, 34))


@_each_instruction
def test_every_tile_gives_the_same_numbers(target, wide, tmp_path):
    """A database may hold any of them, also those that overhang the channels."""
    program, x = wide, np.random.default_rng(0).standard_normal((3, 16, 9, 34))
    tasks, outputs, seen = tuned.tasks(program, target), [], set()
    of_registers = [None] * 3 if "amx-int8" in target.features else []  # which tiles there are, the task says there
    for i, tile in enumerate((None, Tile(1, 1, 1), Tile(3, 4, 2), Tile(2, 6, 4), *of_registers)):
        best = {key: task.offered[i * len(task.offered) // 7] if task.offered else tile for key, task in tasks.items()}
        (out := tmp_path / str(i)).mkdir()
        backend = tuned.backend(out / "tiles.jsonl", target, best) if i else Tvm(threads=1, database="")
        artifact = lower(program, backend, target, out)[1]
        assert not i or artifact.manifest.facts["tiles"] == {key: tile.to_dict() for key, tile in best.items()}
        seen |= set(best.values())
        outputs.append(artifact(x.astype(np.float32)))
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], rtol=1e-6, atol=1e-7)
    assert "amx-int8" not in target.features or {tile.chunk for tile in seen} == {0, 1}


def test_a_tile_that_a_task_does_not_offer_is_not_taken():
    """There are eight tile registers, and a database may hold what needs more."""
    offered = (Tile(4, 1, 1, 1), Tile(8, 1, 1, 1))
    task = Task("a", positions=8, vectors=4, steps=1, offered=offered)
    processor = processor_of(host())
    assert Choices(processor, {"a": Tile(8, 1, 1, 1)})(task) == offered[1]
    assert Choices(processor, {"a": Tile(8, 4, 4, 4)})(task) == offered[0]


def test_codes_that_leave_the_program_are_its_own(tmp_path):
    """uint8 and int8 codes as outputs and inputs, whatever the kernels store."""

    class Net(nn.Module):
        def forward(self, x, codes):
            a = ops.quantize_per_tensor(x, 0.1, 100, 0, 255, torch.uint8)
            b = ops.quantize_per_tensor(x, 0.1, 0, -127, 127, torch.int8)
            return a, b, ops.dequantize_per_tensor(codes, 0.5, -3, -128, 127, torch.int8)

    x, codes = torch.randn(2, 3, 4, 5) * 10, torch.randint(-128, 128, (2, 3), dtype=torch.int8)
    net = Net()
    artifact = _lower(capture(net, (x, codes)), tmp_path, host())
    for want, got in zip(net(x, codes), artifact(x.numpy(), codes.numpy()), strict=True):
        assert got.dtype == want.numpy().dtype
        np.testing.assert_array_equal(got, want)


def test_a_layer_in_float_is_reported_with_the_reason(tmp_path):
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)

        def forward(self, x):
            x = F.relu(self.first(x))
            x = F.relu(self.middle(x))
            return self.last(x)

    program = capture(Net().eval(), (torch.randn(2, 3, 9, 9),))
    where = {"workload": small_workload(program), "target": host(), "backend": Tvm()}
    program = Pipeline.parse("quantize(keep_float=('middle',))").run(program, watchers=(), **where).program
    facts = _lower(program, tmp_path, host()).manifest.facts
    assert (facts["integer_contractions"], facts["float_contractions"]) == (2, 1)
    assert facts["float_because"][0].startswith("%conv2d_1 = aten.conv2d(")
    assert "test_tvm_integers.py" in facts["float_because"][0]
    assert "does not come out of a dequantize op" in facts["float_because"][0]


@pytest.mark.parametrize(("net", "shape", "layers"), [(Wave, (2, 3, 40), 4), (Clip, (2, 3, 4, 6, 6), 3)])
def test_lines_and_volumes_are_integers_too(net, shape, layers, tmp_path):
    torch.manual_seed(0)
    program = capture(net().eval(), (torch.randn(shape),))
    where = {"workload": small_workload(program), "target": host(), "backend": Tvm()}
    program = Pipeline.parse("fold_batch_norm, quantize").run(program, watchers=(), **where).program
    artifact = _lower(program, tmp_path, host())
    facts = artifact.manifest.facts
    assert (facts["integer_contractions"], facts["float_contractions"]) == (layers, 0), facts["float_because"]
    x = torch.randn(3, *shape[1:])
    want = program(x)
    assert (torch.from_numpy(artifact(x)) - want).abs().max() < 1e-5 * want.abs().max()


# ---- whole models --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pruned_and_quantized_digits_are_all_integers_and_keep_their_metric(tmp_path):
    passes = ("fold_batch_norm", "prune_channels(ratio=0.3, by='l1')", "quantize")
    report = build(Recipe("digits", passes, "tvm(threads=1)"), tmp_path / "built", measure=False)
    facts = report.backend
    assert facts["float_contractions"] == 0
    assert facts["integer_contractions"] > 20
    eager = build(Recipe("digits", passes, "eager"), tmp_path / "eager", measure=False)
    assert abs(report.after.metric - eager.after.metric) < 0.005


# ---- instructions --------------------------------------------------------------------------------------------------


def test_the_instruction_is_read_off_features():
    def kind(*features, triple="x86_64-linux-gnu"):
        return instruction_of(processor_of(Target("t", triple, features=frozenset(features)))).kind

    old, wide = ("avx2", "fma"), ("avx2", "fma", "avx512f")
    assert kind(*wide, "avx512-vnni", "amx-int8") == "amx"
    assert kind(*wide, "avx512-vnni") == "vnni"
    assert kind(*old, "avx-vnni") == "vnni"
    assert kind(*wide) == kind(*old) == kind() == "pmaddwd"
    assert kind("neon", "neon-dotprod", triple="aarch64-linux-gnu") == "sdot"
    assert kind("neon", triple="aarch64-linux-gnu") == "plain"


_BEFORE_VNNI = {4: (), 8: ("avx2", "fma"), 16: ("avx2", "fma", "avx512f")}
"""By lanes of 32 bits, the features that decide."""


@pytest.mark.parametrize(("lanes", "bytes_"), [(4, "pmaddwd"), (8, "pmaddubsw"), (16, "pmaddubsw")])
def test_pairs_of_bytes_are_multiplied_only_where_no_pair_overflows(lanes, bytes_):
    """255 (64 + 64) fits 16 bits, and 255 (64 + 65) does not; neighbours of opposite sign cancel."""
    target = Target("t", "x86_64-linux-gnu", features=frozenset(_BEFORE_VNNI[lanes]))
    found = instruction_of(processor_of(target))
    assert (found.kind, found.lanes) == ("pmaddwd", lanes)

    def kind(*codes):
        return found.for_weights(np.array([codes], np.int8)).kind

    assert kind(64, 64, -127, 127) == kind(1, 127, -64, -64) == bytes_
    assert kind(64, 65, 0, 0) == kind(0, 0, -64, -65) == "pmaddwd"


@pytest.mark.parametrize("full_range", [False, True])
def test_a_target_before_vnni_has_pairs_of_bytes_unless_weights_are_to_use_all_8_bits(full_range, tmp_path):
    torch.manual_seed(0)
    program = capture(nn.Sequential(nn.Conv2d(16, 24, 3), nn.ReLU()).eval(), (torch.randn(2, 16, 9, 9),))
    backend, target = Tvm(threads=1, full_range=full_range), find_target("x86_64_v3")
    where = {"workload": small_workload(program), "target": target, "backend": backend}
    quantized = Pipeline.parse("quantize").run(program, watchers=(), **where).program
    facts = lower(quantized, backend, target, tmp_path)[1].manifest.facts
    assert facts["integer_instruction"] == ("pmaddwd" if full_range else "pmaddubsw")


class _AtTheLimits(nn.Module):
    """Products whose pairs are the largest that fit 16 bits, and the largest there are."""

    def __init__(self) -> None:
        super().__init__()
        self.fits, self.overflows = _Product(37, 20, 0, bias=False), _Product(37, 20, 0, bias=False)
        signs = torch.randint(0, 2, (20, 37), dtype=torch.int8) * 2 - 1
        signs[:2], signs[2:4] = 1, -1
        self.fits.weight, self.overflows.weight = 64 * signs, 127 * signs

    def forward(self, x):
        return self.fits(x), self.overflows(x)


@pytest.mark.parametrize("lanes", _BEFORE_VNNI)
def test_the_largest_pairs_do_not_saturate(lanes, tmp_path):
    """On each width of vector: with activations of 255 throughout, too, where sums in 16 bits would be cut off."""
    features = frozenset(_BEFORE_VNNI[lanes])
    if not host().is_x86 or not features <= host().features:
        pytest.skip(f"this processor lacks {' '.join(sorted(features - host().features)) or 'the instructions of x86'}")
    torch.manual_seed(0)
    net, target = _AtTheLimits(), Target("t", host().triple, features=features)
    x = torch.cat([torch.full((1, 37), 1e3), torch.randn(18, 37) * 9])
    artifact = _lower(capture(net, (x,)), tmp_path, target)
    assert artifact.manifest.facts["integer_instruction"] == ("pmaddwd" if lanes == 4 else "pmaddubsw, pmaddwd")
    codes = torch.round(x * np.float32(1 / np.float32(0.03))).clamp(0, 255).double()
    for layer, got in zip((net.fits, net.overflows), artifact(x.numpy()), strict=True):
        exact = F.gelu(codes @ layer.weight.double().T * (layer.scale.double() * 0.03))
        np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("cpu", "features", "instruction"),
    [("cortex-a76", {"neon", "neon-dotprod"}, "sdot"), ("cortex-a72", {"neon"}, "smlal")],
)
def test_code_for_aarch64_holds_the_instruction_of_the_core(cpu, features, instruction):
    assert instruction in _assembly(Target("arm", "aarch64-linux-gnu", cpu, frozenset(features), 4))


@functools.cache
def _convolution() -> Program:
    torch.manual_seed(0)
    return _quantized(nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()), torch.randn(2, 16, 9, 9))


def _assembly(target: Target) -> str:
    """What a quantized convolution is compiled to."""
    tvm = tvm_runtime.need_tvm()
    from fxopt.backends.tvm.compile import lower as lower_module
    from fxopt.backends.tvm.frontend.from_program import import_program
    from fxopt.backends.tvm.graph.lift_parameters import lift_parameters
    from fxopt.backends.tvm.tiling.task import Choices

    program = _convolution()
    processor = processor_of(target)
    with (where := tvm.target.Target(processor.describe())):
        module, _ = lift_parameters(lower_module(import_program(program), Choices(processor)))
        kernels = {name: f for name, f in module.functions.items() if isinstance(f, tvm.tirx.PrimFunc)}
        named = {name: f.with_attr("global_symbol", name.name_hint) for name, f in kernels.items()}
        return str(tvm.compile(tvm.IRModule(named), target=where).mod.inspect_source("asm"))


def test_the_configuration_of_tile_registers_is_that_of_the_manual():
    """Intel's SDM, LDTILECFG: byte 0 the palette, bytes of a row from byte 16 on as 16 bits, rows from byte 48 on."""
    laid = np.array(Registers(lines=1, down=2, across=2, height=14, step=36).configuration(), np.int64).tobytes()
    assert len(laid) == 64
    assert laid[0] == 1
    assert list(np.frombuffer(laid[16:32], np.uint16)) == [64] * 4 + [36] * 2 + [64] * 2
    assert list(laid[48:56]) == [14] * 6 + [9] * 2


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 2, 2), (2, 1, 2), (1, 4, 1), (4, 1, 1), (1, 1, 4), (1, 5, 1), (1, 2, 3)]
)
def test_no_tile_register_is_needed_twice_at_once(shape):
    """Sums have registers of their own; what stays for a step is not overwritten by what passes."""
    lines, down, across = shape
    registers = Registers(lines, down, across, height=16, step=64)
    sums = [number for number, *_ in registers.sums]
    assert registers.fit == (across * down * lines + min(across, down * lines) < 8)
    if not registers.fit:
        return
    assert len(set(sums)) == lines * down * across
    staying = (registers.positions if registers.weights_pass else registers.weights).values()
    passing = (registers.weights if registers.weights_pass else registers.positions).values()
    assert len(set(staying)) == len(staying)
    assert not set(sums) & {*staying, *passing}
    assert not set(staying) & set(passing)
    assert {*sums, *staying, *passing} <= set(range(8))


def test_without_tile_registers_of_the_system_the_artifact_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tvm_runtime, "allow_tiles", lambda: False)
    with pytest.raises(BackendError, match="build for a target whose features lack amx-int8"):
        Tvm().load(tmp_path, bare_manifest(integer_instruction="amx-int8"))
