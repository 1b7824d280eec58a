"""A copy of a graph module: as ``copy.deepcopy`` makes it, without taking all that holds the weights through it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx


def copy_module(module: fx.GraphModule, instead: Mapping[int, torch.Tensor]) -> fx.GraphModule:
    """Return a copy that shares no graph, no weight and no module with it.

    ``instead`` has tensors to take in place of weights, by their ``id``. Tied weights stay tied.
    """
    memo: dict[int, Any] = dict(instead)
    twin = fx.GraphModule(torch.nn.Module(), fx.Graph())
    _copy_contents(module, twin, memo)
    twin.graph = _copy_graph(module.graph)
    for node in twin.graph.find_nodes(op="get_attr"):
        path, _, name = str(node.target).rpartition(".")
        owner = twin.get_submodule(path)
        if not hasattr(owner, name):  # neither weight nor module, as a constant of a user's own class
            setattr(owner, name, copy.deepcopy(getattr(module.get_submodule(path), name), memo))
    twin.meta = copy.deepcopy(module.meta, memo)
    return twin


def _copy_contents(old: torch.nn.Module, new: torch.nn.Module, memo: dict[int, Any]) -> None:
    new.training = old.training
    new._parameters.update({name: copy.deepcopy(value, memo) for name, value in old._parameters.items()})
    new._buffers.update({name: copy.deepcopy(value, memo) for name, value in old._buffers.items()})
    new._non_persistent_buffers_set = set(old._non_persistent_buffers_set)
    for name, part in old._modules.items():
        if type(part) is torch.nn.Module:  # it only gives the weights in it their names
            new._modules[name] = twin = torch.nn.Module()
            _copy_contents(part, twin, memo)
        else:
            new._modules[name] = copy.deepcopy(part, memo)


def _copy_graph(graph: fx.Graph) -> fx.Graph:
    twin = fx.Graph(tracer_cls=graph._tracer_cls)
    returned = twin.graph_copy(graph, {})
    if (output := next(iter(graph.find_nodes(op="output")), None)) is not None:
        twin.output(returned, type_expr=output.type).meta = output.meta
    twin._codegen = copy.copy(graph._codegen)  # it holds tree specs, which nothing changes
    for node in twin.nodes:  # a node's copy has a dict of its own, but not the lists and dicts in it
        node.meta = {k: copy.copy(v) if isinstance(v, (dict, list)) else v for k, v in node.meta.items()}
    return twin
