"""Texts that people read, whole: a graph after quantization, messages of wrong passes, a manual. Numbers are left out."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt import Pipeline, Program, capture, graph_pass
from fxopt.cli.explain import explain
from fxopt.errors import CaptureError, FxoptError
from fxopt.testing import small_workload


def _stable(text):
    """Without what differs between machines: small numbers, and the lines of this file."""
    text = re.sub(r"\d\.\d+(e-\d+)?|\d+e-\d+", "#", text)
    text = re.sub(r"#, \d+, 0, 255", "#, #, 0, 255", text)  # a zero point moves with the scale
    return re.sub(r"(test_golden\.py):\d+", r"\1:LINE", text)


class _Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y = F.relu(self.conv(x))
        y = F.relu(self.conv(y) + y)
        return self.head(y.mean((2, 3)))


@graph_pass
def wrong_shape(program: Program) -> None:
    """Return half of the scores."""
    (linear,) = program.find("aten.linear")
    half = program.call(torch.ops.aten.slice.Tensor, linear, 1, 0, 1, like=linear)
    program.graph.output_node().replace_input_with(linear, half)


@graph_pass
def wrong_number(program: Program) -> None:
    """Change a weight by a millionth."""
    (linear,) = program.find("aten.linear")
    program.swap_tensor(linear, linear.args[1], program.tensor(linear.args[1]) * (1 + 1e-6))


@graph_pass
def broken_graph(program: Program) -> None:
    """Feed a map to the linear where it takes a row."""
    (linear,) = program.find("aten.linear")
    linear.replace_input_with(linear.args[0], program.inputs()[0])


@graph_pass
def dropped_output(program: Program) -> None:
    """Return nothing."""
    program.graph.output_node().args = ([],)


@graph_pass
def dangling_alias(program: Program) -> None:
    """Return the input itself, where it was a copy."""
    for node in program.find("aten.clone"):
        program.replace(node, node.args[0])


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    return capture(_Residual(), (torch.randn(2, 4, 5, 5),))


def test_quantized_graph(program, golden):
    made = Pipeline.parse("quantize").run(program, workload=small_workload(program), watchers=()).program
    golden(_stable(made.text()))


@pytest.mark.parametrize("wrong", [wrong_shape, wrong_number, broken_graph, dropped_output, dangling_alias])
def test_message_of_a(wrong, program, golden):
    class Copies(nn.Module):
        def forward(self, x):
            return x.clone(), x + 1

    if wrong is dangling_alias:
        program = capture(Copies(), (torch.randn(2, 3),))
    with pytest.raises(FxoptError) as caught:
        Pipeline.of(wrong()).run(program)
    golden(_stable(f"{type(caught.value).__name__}: {caught.value}"))


def test_message_of_a_model_that_branches_on_values(golden):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 4)

        def forward(self, x):
            y = self.body(x)
            return y if y.sum() > 0 else -y

    with pytest.raises(CaptureError) as caught:
        capture(Branches(), (torch.randn(2, 4),))
    golden(_stable(str(caught.value)))


def test_manual_of_a_pass(golden):
    golden(explain("fold_constants").text())
