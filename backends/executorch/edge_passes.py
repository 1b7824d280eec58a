"""Passes over the graph that ExecuTorch makes of a program, before XNNPACK takes its part of it."""

from __future__ import annotations

import torch
from executorch.exir.dialects._ops import ops
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult


def infer_view_sizes(module: fx.GraphModule) -> PassResult:
    """Write the one dynamic size of a view as -1: XNNPACK takes no size that is a value of the graph."""
    changed = False
    for node in module.graph.find_nodes(op="call_function", target=ops.edge.aten.view_copy.default):
        sizes = list(node.args[1])
        dynamic = [i for i, size in enumerate(sizes) if isinstance(size, (fx.Node, torch.SymInt))]
        if len(dynamic) == 1 and -1 not in sizes:
            sizes[dynamic[0]] = -1
            node.args = (node.args[0], sizes)
            changed = True
    module.graph.eliminate_dead_code()
    module.recompile()
    return PassResult(module, changed)
