"""The rows of a program's ops: their module, costs and precision, of a program in float and in integers."""

import pytest
import torch
from torch import nn

import fxopt
from fxopt.driver.layers import layers_of
from fxopt.ir.cost import cost


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return fxopt.capture(Net().eval(), (torch.randn(2, 3, 8, 8),))


def test_each_op_has_its_module_what_it_reads_and_its_line(program):
    rows = {row.name: row for row in layers_of(program)}
    assert [row.op for row in rows.values()] == [
        "aten.conv2d", "aten.batch_norm", "aten.relu", "aten.mean.dim", "aten.linear",
    ]  # fmt: skip
    assert rows["conv2d"].module == "stem.0"
    assert rows["linear"].module == "head"
    assert rows["mean"].module == ""
    assert rows["relu"].inputs == ("batch_norm",)
    assert rows["conv2d"].source.startswith("tests/driver/test_layers.py:") or "test_layers.py:" in rows["mean"].source


def test_costs_are_those_of_the_program_counted_by_hand(program):
    rows = {row.name: row for row in layers_of(program)}
    assert rows["conv2d"].macs == 3 * 8 * 9 * 36
    assert rows["linear"].macs == 8 * 5
    assert rows["conv2d"].weight_bytes == 4 * (3 * 8 * 9 + 8)
    assert sum(row.macs for row in rows.values()) == cost(program).macs
    assert sum(row.weight_bytes for row in rows.values()) == cost(program).bytes


@pytest.mark.parametrize(
    ("passes", "precision"),
    [("", "float32"), ("quantize_weights(bits=8)", "int8 weights"), ("cast_floats(dtype='float16')", "float16")],
)
def test_precision_is_what_the_operands_are_held_in(program, passes, precision):
    made = fxopt.Pipeline.parse(passes).run(program).program
    assert {row.precision for row in layers_of(made) if row.op == "aten.linear"} == {precision}


def test_an_int8_layer_reads_codes_on_both_sides_and_has_its_weight_in_bytes(program):
    from fxopt.workload.recorded import RecordedInputs

    data = RecordedInputs({"x": torch.randn(64, 3, 8, 8).numpy()}, program)
    workload = fxopt.Workload(name="net", model=Net, inputs=lambda: ((torch.randn(2, 3, 8, 8),), {}), data=data)
    made = fxopt.Pipeline.parse("fold_batch_norm, quantize").run(program, workload=workload).program
    rows = [row for row in layers_of(made) if row.op == "aten.conv2d"]
    assert [row.precision for row in rows] == ["int8"]
    assert rows[0].weight_bytes < 4 * 3 * 8 * 9
