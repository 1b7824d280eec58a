"""The graph of a program's floating-point values: how information flows from the inputs to the outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import networkx as nx
import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.op_table import family
from fxopt.ir.program import Program

SOURCE = "inputs"
"""The node that all inputs come from."""

_NO_VALUES = ("create", "size", "check")
"""Families of ops that read no values of their operands, only sizes and types."""


def stream_graph(program: Program) -> nx.DiGraph:
    """A directed graph of the fx nodes with floating-point values computed from the inputs, from :data:`SOURCE` on.

    Left out are weights and values computed from them alone, sizes, and values computed from integers and masks without
    a weight, such as an attention mask or the angles of rotary positions: a layer that reads them depends on nothing but
    its stream. An embedding of integers is in the graph.
    """
    graph = nx.DiGraph()
    graph.add_node(SOURCE)
    reached: set[fx.Node] = set()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder":
            reached.add(node)
            if _is_floating(value):
                graph.add_edge(SOURCE, node)
        if node.op != "call_function" or family(node) in _NO_VALUES or not pytree.tree_any(_is_tensor, value):
            continue
        if reached.isdisjoint(node.all_input_nodes):
            continue
        reached.add(node)
        if not pytree.tree_any(_is_floating, value):
            continue
        above = [operand for operand in node.all_input_nodes if operand in graph]
        if above or any(_is_parameter(program, operand) for operand in node.all_input_nodes):
            graph.add_edges_from((operand, node) for operand in above or [SOURCE])
    return graph


def strict_dominators(dominators: Mapping[Any, Any], node: fx.Node) -> Iterator[Any]:
    """The strict dominators of a node, nearest first, from the immediate one of every node."""
    while (above := dominators.get(node)) not in (None, node):
        yield above
        node = above


def between(graph: nx.DiGraph, stop: Iterable[Any], end: fx.Node) -> frozenset[fx.Node]:
    """``end`` and its ancestors up to ``stop``, which is left out."""
    seen, todo = set(stop), [end]
    found = set()
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            found.add(node)
            todo += graph.predecessors(node)
    return frozenset(found - {SOURCE})


def made_of_weights(program: Program) -> set[fx.Node]:
    """The parameters, and nodes computed from parameters and other constants alone."""
    constant: set[fx.Node] = set()
    found: set[fx.Node] = set()
    for node in program.graph.nodes:
        operands = node.all_input_nodes
        if node.op == "get_attr" or (node.op == "call_function" and operands and constant.issuperset(operands)):
            constant.add(node)
            if _is_parameter(program, node) or not found.isdisjoint(operands):
                found.add(node)
    return found


def reads_values(node: fx.Node) -> bool:
    """Whether a call, or the output, reads the values of its operands."""
    return family(node) not in _NO_VALUES


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _is_floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def _is_parameter(program: Program, node: fx.Node) -> bool:
    return isinstance(program.tensor(node), torch.nn.Parameter)
