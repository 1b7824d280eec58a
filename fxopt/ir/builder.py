"""A Program from a graph that was built node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from fxopt.ir.lazy_module import LazyModule
from fxopt.ir.program import Program


def assemble(root: torch.nn.Module, graph: fx.Graph, inputs: Sequence[Any], outputs: Sequence[Any]) -> Program:
    """Close ``graph``, whose placeholders take ``inputs`` in order, and make it a Program; ``root`` holds its weights.

    The program takes its inputs as positional arguments and returns a tensor, or a tuple of several. Its shapes are not
    derived, and it has no dynamic ranges.
    """
    single = len(outputs) == 1
    graph.output(outputs[0] if single else tuple(outputs))
    graph.output_node().args = (tuple(outputs),)
    names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    in_spec = pytree.tree_structure((tuple(0 for _ in inputs), {}))
    out_spec = pytree.tree_structure(0 if single else tuple(0 for _ in outputs))
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, in_spec, out_spec)))
    return Program(LazyModule(root, graph, class_name="Program"), tuple(inputs))
