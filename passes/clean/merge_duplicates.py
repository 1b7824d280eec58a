"""Compute once what is computed twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.alias_analysis import alias_sets, written, written_sets
from fxopt.ir.op_table import arguments, family


@graph_pass
def merge_duplicates(program: Program) -> None:
    """Merge equal ops on the same operands (common subexpression elimination).

    Also several reads of one tied weight become one. Ops that draw random numbers or touch memory that is written to
    stay, and so does a duplicate that would make two outputs one and the same tensor.

    before:
        %x : f32[2,4]
        %a = aten.relu(%x)
        %b = aten.relu(%x)
        %y = aten.add.Tensor(%a, %b)
        return %y
    after:
        %x : f32[2,4]
        %a = aten.relu(%x)
        %y = aten.add.Tensor(%a, %a)
        return %y
    """
    sets = alias_sets(program.graph)
    dirty = written_sets(program.graph, sets)
    outputs = [out for out in program.outputs() if isinstance(out, fx.Node)]
    seen: dict[Any, fx.Node] = {}
    for node in list(program.graph.nodes):
        key = _key(program, node)
        if key is None or any(sets[n] in dirty for n in (node, *node.all_input_nodes)):
            continue
        first = seen.setdefault(key, node)
        if first is node:
            continue
        old, new = sets[node], sets[first]
        if old is not new and {old, new} <= {sets[out] for out in outputs}:
            program.skip(node, f"it and %{first.name} are both outputs, and must not share memory")
            continue
        program.replace(node, first)
        sets = {n: new if root is old else root for n, root in sets.items()}


def _key(program: Program, node: fx.Node) -> Any:
    """Equal for nodes that compute the same; None for one that must stay."""
    if node.op == "get_attr":
        tensor = program.tensor(node)
        return None if tensor is None else ("weight", id(tensor))
    if node.op != "call_function" or family(node) in (None, "random", "check", "mutate") or written(node):
        return None
    spelled = arguments(node) if hasattr(node.target, "_schema") else [node.args, dict(node.kwargs)]
    return (node.target, _frozen(spelled))


def _frozen(value: Any) -> Any:
    """An argument as a hashable key; 1, 1.0 and True are different."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((k, _frozen(v)) for k, v in sorted(value.items()))
    if isinstance(value, float):
        return ("float", value.hex())  # -0.0 and 0.0 are different too
    return value if isinstance(value, (fx.Node, torch.dtype, torch.device)) else (type(value).__name__, str(value))
