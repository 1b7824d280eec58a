"""The graph in the DOT language: every op once, in the box of its module, with the values it reads; nothing breaks the text."""

import re
import shutil
import subprocess

import pytest
import torch
from torch import nn

import fxopt


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x):
        return self.body(x) + x


@pytest.fixture(scope="module")
def program():
    return fxopt.capture(Net().eval(), (torch.randn(2, 3),))


@pytest.fixture(scope="module")
def text(program):
    return program.to_dot()


def test_every_op_and_every_edge_is_there(text):
    assert text.count("aten.linear") == text.count("aten.relu") == text.count("aten.add.Tensor") == 1
    edges = set(re.findall(r'"(\w+)" -> "(\w+)"', text))
    assert {("x", "linear"), ("linear", "relu"), ("relu", "add"), ("x", "add"), ("add", "output")} == edges
    assert "f32[batch,3]" in text


def test_ops_stand_in_the_box_of_their_module(text):
    (box,) = re.findall(r'subgraph "cluster_body.0" \{(.*?)\n  \}', text, re.DOTALL)
    assert "linear" in box
    assert "relu" not in box


def test_a_hostile_name_stays_a_name(program):
    program = program.copy()
    (node,) = program.find("aten.relu")
    node.meta["nn_module_stack"] = {"k": ('a"]; hurt [x=1]\\', "type")}
    text = program.to_dot()
    assert "hurt" in text
    assert "hurt" not in re.sub(r'"(?:[^"\\]|\\.)*"', "", text)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_it(text):
    subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=True)
