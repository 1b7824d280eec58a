"""Regions of ``torch.autocast`` that change nothing on a CPU, inlined into the graph."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx


def inline_idle_autocast(module: fx.GraphModule) -> None:
    """Replace calls of regions with autocast off, or for another device than the CPU, by the nodes in them.

    Models write ``with torch.autocast(device, enabled=False)`` around ops that need float32, and ``torch.export`` keeps
    each as a graph of its own, which no pass looks into. Regions with autocast on stay calls: their ops change dtypes.
    """
    while idle := [node for node in module.graph.nodes if _is_idle(node)]:
        for node in idle:
            _inline(module, node)


def _is_idle(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is not torch.ops.higher_order.wrap_with_autocast:
        return False
    device, _, enabled = node.args[:3]
    return not enabled or torch.device(str(device)).type != "cpu"


def _inline(module: fx.GraphModule, call: fx.Node) -> None:
    region: Any = call.args[4]
    path = str(region.target)
    inner = module.get_submodule(path)
    assert isinstance(inner, fx.GraphModule)
    inputs = [node for node in inner.graph.nodes if node.op == "placeholder"]
    values: dict[fx.Node, Any] = dict(zip(inputs, call.args[5:], strict=True))
    with module.graph.inserting_before(call):
        for node in inner.graph.nodes:
            if node.op == "output":
                break
            if node.op != "placeholder":
                values[node] = module.graph.node_copy(node, lambda n: values[n])
                if node.op == "get_attr":
                    values[node].target = f"{path}.{node.target}"
    results: Any = fx.map_arg(inner.graph.output_node().args[0], lambda n: values[n])
    if isinstance(results, (tuple, list)):
        for user in list(call.users):
            assert user.target is operator.getitem, "a region with several results is read by index"
            index: Any = user.args[1]
            user.replace_all_uses_with(results[index])
            module.graph.erase_node(user)
    else:
        call.replace_all_uses_with(results)
    module.graph.erase_node(call)
