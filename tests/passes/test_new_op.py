"""An op is one row: softshrink, of which no pass knows anything but that row, in a small network through them all.

Each exact pass is proved by the pipeline in float64; here is checked that the passes did their work around the op.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fxopt import Pipeline, capture
from fxopt.ir.op_table import family
from fxopt.ir.printer import op_name
from fxopt.passes.prune.known.values import known_values
from fxopt.testing import small_workload

pytestmark = pytest.mark.usefixtures("one_thread")


class Shrinking(nn.Module):
    """Softshrink between convolutions, and behind them a pair with relu that equalize can reach."""

    def __init__(self):
        super().__init__()
        self.stem, self.mid = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last, self.head = nn.Conv2d(16, 16, 1), nn.Linear(16, 5)
        self.act = nn.Softshrink(0.1)

    def forward(self, x):
        x = self.act(self.mid(self.act(self.stem(x))))
        return self.head(self.last(x).relu().mean((2, 3)))


@pytest.fixture
def program():
    torch.manual_seed(0)
    return capture(Shrinking().eval(), (torch.randn(2, 3, 12, 12),))


def run(spec, program):
    return Pipeline.parse(spec).run(program, workload=small_workload(program), watchers=())


def shapes(program):
    return {name: tuple(t.shape) for name, t in program.tensors().items() if name.endswith("weight")}


def test_channels_go_through_it(program):
    pruned = run("prune_channels(ratio=0.5, by='l1')", program).program
    assert any(op_name(node) == "aten.softshrink" for node in pruned.graph.nodes)
    for layer, channels in (("stem.weight", 0), ("mid.weight", 1), ("mid.weight", 0), ("last.weight", 1)):
        assert shapes(pruned)[layer][channels] < 16, layer


def test_zero_stays_zero_through_it(program):
    with torch.no_grad():
        for tensor in (program.tensors()["stem.weight"], program.tensors()["stem.bias"]):
            tensor[:5] = 0
    shrink = next(program.find("aten.softshrink"))
    assert int((known_values(program)[shrink] == 0).sum()) == 5
    assert shapes(run("shrink", program).program)["mid.weight"] == (16, 11, 3, 3)


def test_equalize_stops_at_it_and_goes_on_behind_it(program):
    outcome = run("equalize", program)
    before, after = program.tensors(), outcome.program.tensors()
    assert not torch.equal(before["head.weight"], after["head.weight"])
    assert torch.equal(before["stem.weight"], after["stem.weight"])
    reasons = [skip.reason for step in outcome.steps for skip in step.skips]
    assert any("aten.softshrink is not positively homogeneous" in reason for reason in reasons)


def test_layers_around_it_are_quantized(program):
    quantized = run("quantize", program).program
    layers = [node for node in quantized.graph.nodes if family(node) == "contraction"]
    assert len(layers) == 4
    assert all(family(node.args[0]) == family(node.args[1]) == "quant" for node in layers)
    assert all(family(node.args[0]) != "quant" or node.args[0].args[1:] for node in quantized.find("aten.softshrink"))


def test_it_is_computed_in_half_precision(program):
    half = run("cast_floats", program).program
    assert {node.meta["val"].dtype for node in half.find("aten.softshrink")} <= {torch.float16, torch.bfloat16}


def test_it_may_be_folded_into_a_convolution_over_a_line():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(3, 4, 3), nn.Conv1d(4, 5, 3)

        def forward(self, x):
            return self.b(nn.functional.softshrink(self.a(x)))

    images = run("conv_to_2d", capture(Line().eval(), (torch.randn(2, 3, 16),))).program
    assert [node.meta["val"].dim() for node in images.find("aten.softshrink")] == [4]
    assert sum(op_name(node) == "aten.squeeze.dim" for node in images.graph.nodes) == 1
