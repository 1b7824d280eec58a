"""What PT2E quantizers look for in a node's metadata: the module or function that made it."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn

from fxopt.ir.printer import op_name

_SOURCES = {
    "aten.conv1d": nn.Conv1d,
    "aten.conv2d": nn.Conv2d,
    "aten.conv3d": nn.Conv3d,
    "aten.linear": nn.Linear,
    "aten.matmul": torch.matmul,
    "aten.add.Tensor": operator.add,
    "aten.mul.Tensor": operator.mul,
    "aten.cat": torch.cat,
    "aten.relu": nn.ReLU,
    "aten.relu6": nn.ReLU6,
    "aten.hardtanh": nn.Hardtanh,
    "aten.hardswish": nn.Hardswish,
    "aten.silu": nn.SiLU,
    "aten.gelu": nn.GELU,
    "aten.leaky_relu": nn.LeakyReLU,
    "aten.sigmoid": nn.Sigmoid,
    "aten.tanh": nn.Tanh,
    "aten.max_pool2d": nn.MaxPool2d,
    "aten.avg_pool2d": nn.AvgPool2d,
    "aten.adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
}


def name_sources(graph: fx.Graph) -> None:
    """Give each node the source that its op has, one of its own.

    A capture records only the innermost module, so two calls of one relu would be taken for one source, and functions and
    nodes added by passes would have none. An existing source stays.
    """
    for node in graph.nodes:
        if node.op == "call_function" and (source := _SOURCES.get(op_name(node))) is not None:
            node.meta.setdefault("source_fn_stack", [(node.name, source)])
