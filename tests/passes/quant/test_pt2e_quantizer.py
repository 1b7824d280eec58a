"""A PT2E quantizer decides in place of the backend's policy: what it annotates is what is quantized."""

import re

import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture
from fxopt.errors import UsageError
from fxopt.ir.printer import op_name
from fxopt.numerics.error_metrics import sqnr
from fxopt.passes.quant.quantize import PREPARATION
from fxopt.testing import small_workload

pytest.importorskip("torchao", reason="torchao is not installed: pip install torchao")
pytestmark = pytest.mark.usefixtures("one_thread")

QUANTIZE = "quantized_decomposed.quantize_per_tensor"


class Block(nn.Module):
    """A stem, a residual sum, a pool, a concatenation, a gate; one relu is called twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm, self.relu, self.pool, self.fc = nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Linear(16 * 9, 5)

    def forward(self, x):
        x = self.pool(self.relu(self.norm(self.stem(x))))
        y = self.relu(self.left(x) + x)
        y = torch.cat([y, torch.sigmoid(self.right(x))], 1)
        return self.fc(y.flatten(1))


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return capture(Block().eval(), (torch.randn(4, 3, 8, 8),))


def quantized(program, function, more=""):
    run = Pipeline.parse(f"quantize(quantizer='cases.pt2e_quantizers:{function}'{more})")
    return run.run(program, workload=small_workload(program))


def quantized_values(program):
    """For every quantize op of an activation: the node that it reads, its code, and the ops that read it."""
    found = {}
    for node in program.graph.nodes:
        if op_name(node) == QUANTIZE:
            (real,) = node.users
            found[node.args[0].name] = (node.args[1:], sorted(user.name for user in real.users))
    return found


def test_what_is_quantized_is_what_torchao_quantizes_itself(program):
    from cases.pt2e_quantizers import x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from fxopt.passes.quant.annotation_sources import name_sources

    ready = Pipeline.of(*PREPARATION).run(program).program
    name_sources(ready.graph)
    peer = prepare_pt2e(ready.copy().module, x86())
    for args in small_workload(program).calibration(64, "the test"):
        peer(*args)
    peer = convert_pt2e(peer)
    wanted = set()
    for node in peer.graph.nodes:
        if "dequantize_per_tensor" in str(node.target):
            source = node.args[0].args[0]
            wanted |= {(op_name(source) if source.op == "call_function" else source.op, op_name(u)) for u in node.users}
    made = quantized(program, "x86").program
    got = set()
    for node in made.graph.nodes:
        if op_name(node) == QUANTIZE:
            source = node.args[0]
            for real in node.users:
                got |= {
                    (op_name(source) if source.op == "call_function" else source.op, op_name(u)) for u in real.users
                }
    assert got == wanted
    assert ("aten.max_pool2d", "aten.conv2d") in got


def test_it_gives_what_the_float_program_gives_but_for_the_noise(program):
    for function in ("x86", "signed", "one_scale", "shared", "fixed_sigmoid"):
        made = quantized(program, function).program
        assert sqnr(program(*program.args), made(*program.args)) > 25, function


def test_signed_codes_have_a_zero_point(program):
    codes = [code for code, _ in quantized_values(quantized(program, "signed").program).values()]
    assert {code[2:] for code in codes} == {(-128, 127, torch.int8)}
    assert any(code[1] == -128 for code in codes)


def test_seven_bits_leave_half_of_the_codes(program):
    codes = [code for code, _ in quantized_values(quantized(program, "x86_of_7_bits").program).values()]
    assert {code[2:] for code in codes} == {(0, 127, torch.uint8)}


def test_a_weight_with_one_scale_is_dequantized_as_a_whole(program):
    made = quantized(program, "one_scale").program
    ops = [op_name(node) for node in made.graph.nodes]
    assert "quantized_decomposed.dequantize_per_channel" not in ops


def test_values_that_share_a_scale_have_the_range_of_all(program):
    found = quantized_values(quantized(program, "shared").program)
    (cat,) = (name for name in found if name.startswith("cat"))
    parts = [code for code, readers in found.values() if any(reader.startswith("cat") for reader in readers)]
    assert len(parts) == 2
    assert {*parts, found[cat][0]} == {parts[0]}
    alone = quantized_values(quantized(program, "signed").program)
    assert "cat" not in "".join(alone)


def test_a_fixed_code_is_taken_as_it_is(program):
    found = quantized_values(quantized(program, "fixed_sigmoid").program)
    (code,) = (code for name, (code, _) in found.items() if name.startswith("sigmoid"))
    assert code == (1 / 256, 0, 0, 255, torch.uint8)


def test_a_layer_kept_in_float_is_not_quantized_though_annotated(program):
    outcome = quantized(program, "signed", ", keep_float=('left',)")
    assert "left.weight" in outcome.program.tensors()
    assert any("keep_float" in skip.reason for step in outcome.steps for skip in step.skips)


def test_a_budget_leaves_annotated_layers_in_float(program):
    outcome = quantized(program, "signed", ", sqnr_db=1000.0")
    assert all(not name.endswith("_int8") for name in outcome.program.tensors())


@pytest.mark.parametrize(
    ("function", "reason"),
    [("in_float8", "float8_e4m3fn is no format of activations"), ("few_bits", "weights up to 7; train_quantized")],
)
def test_what_it_asks_and_cannot_be_is_reported(program, function, reason):
    outcome = quantized(program, function)
    skips = [skip for step in outcome.steps for skip in step.skips if reason in skip.reason]
    assert len(skips) == 4
    assert all("test_pt2e_quantizer.py:" in skip.source for skip in skips)
    assert all(op_name(node) != QUANTIZE for node in outcome.program.graph.nodes)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("not_configured", "annotated nothing in this program.*set_global"),
        ("broken", "ValueError: no such configuration"),
        ("absent", "has no attribute 'absent'"),
    ],
)
def test_a_quantizer_that_cannot_be_used_is_an_error_with_the_way_out(program, function, message):
    with pytest.raises(UsageError, match=re.compile(message, re.DOTALL)):
        quantized(program, function)
