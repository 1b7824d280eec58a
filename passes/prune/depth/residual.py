"""Residual branches: computed from a stream of values and added to it again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import networkx as nx
import torch
from torch import fx

from fxopt.ir.alias_analysis import written
from fxopt.ir.op_table import arguments, family
from fxopt.ir.printer import type_text
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import size_expressions
from fxopt.passes.prune.depth.stream_graph import SOURCE, between, stream_graph, strict_dominators
from fxopt.passes.prune.known import elementwise as element
from fxopt.passes.prune.known.rules import rule_of

_SUMS = ("aten.add.Tensor", "aten.add_.Tensor")


@dataclass(frozen=True, eq=False)
class Branch:
    """``total = stream + end``, where ``end`` is computed from the stream alone, by ``nodes`` (``end`` is the last).

    ``weights`` are the names of the parameters that the nodes read. A branch may hold others.
    """

    total: fx.Node
    stream: fx.Node
    end: fx.Node
    nodes: frozenset[fx.Node]
    weights: tuple[str, ...]

    def holds(self, other: Branch) -> bool:
        """Whether the other one is a part of this one, and goes with it."""
        return other.total in self.nodes


@dataclass(frozen=True)
class Residuals:
    """The branches in the order of their sums, and similar sums that are none, with the reason."""

    branches: tuple[Branch, ...]
    others: tuple[tuple[fx.Node, str], ...]


def find_residuals(program: Program) -> Residuals:
    """Find every sum of a stream and a value that dominators prove to be computed from it alone.

    A value dominates another if all paths from the inputs to that one lead through it (Lengauer and Tarjan 1979; here
    Cooper, Harvey and Kennedy 2001, as networkx has it). A branch without parameters, such as the one in a decomposed
    GELU, is no layer and left out. Modules and names play no part.
    """
    graph = stream_graph(program)
    search = _Search(program, graph, nx.immediate_dominators(graph, SOURCE))
    branches: list[Branch] = []
    others: list[tuple[fx.Node, str]] = []
    for node in program.find(*_SUMS):
        found = search.at(node)
        if isinstance(found, Branch):
            branches.append(found)
        elif found is not None:
            others.append((node, found))
    inside = {node for branch in branches for node in branch.nodes}  # a sum inside of a layer is not reported
    return Residuals(tuple(branches), tuple((node, reason) for node, reason in others if node not in inside))


@dataclass(frozen=True)
class _Search:
    program: Program
    graph: nx.DiGraph
    dominators: dict[Any, Any]

    def at(self, node: fx.Node) -> Branch | str | None:
        """The branch that a sum ends, the reason why there is none, or None for a sum of another kind."""
        call = arguments(node)
        first, second = call["self"], call["other"]
        if call["alpha"] != 1 or first not in self.graph or second not in self.graph or first is second:
            return None
        for stream, end in ((first, second), (second, first)):
            origin = origin_of(stream)
            if origin in strict_dominators(self.dominators, end):
                nodes = between(self.graph, [origin], end)
                weights = _weights(self.program, self.graph, nodes)
                branch = Branch(node, stream, end, nodes, weights)
                return (_unequal(self.program, branch) or branch) if weights else None
        return self._reason(node, first, second)

    def _reason(self, node: fx.Node, first: fx.Node, second: fx.Node) -> str | None:
        for stream, end in ((first, second), (second, first)):
            if nx.has_path(self.graph, stream, end):
                below = nx.descendants(self.graph, stream)
                aside = between(self.graph, [stream], end) - below
                joins = (n for n in self.program.graph.nodes if n in aside and not below.isdisjoint(self.graph[n]))
                return f"%{end.name} comes from %{stream.name}, but from %{next(joins).name} as well, around it"
        above = next(strict_dominators(self.dominators, node))
        sides = [between(self.graph, [above], operand) for operand in (first, second)]
        if above == SOURCE or not all(_weights(self.program, self.graph, side) for side in sides):
            return None
        return f"neither operand is %{above.name}, which both are computed from: the stream is projected, not passed on"


def origin_of(node: fx.Node) -> fx.Node:
    """The value before casts, copies and idle dropouts: a norm may read the one, and the sum the other."""
    while node.op == "call_function" and rule_of(node) in (element.same, element.dropout) and family(node) != "random":
        node = node.all_input_nodes[0]
    return node


def _unequal(program: Program, branch: Branch) -> str | None:
    """Why the sum without the branch would not equal the stream."""
    node, stream, end = (n.meta["val"] for n in (branch.total, branch.stream, branch.end))
    for operand in (stream, end):
        if size_expressions(operand.shape) != size_expressions(node.shape) or operand.dtype != node.dtype:
            types = [type_text(value, program.dims()) for value in (operand, node)]
            return f"an operand, {types[0]}, becomes {types[1]} in the sum"
    if written(branch.total) and branch.total.args[0] is not branch.stream:
        return "the sum is written into the memory of the branch"
    return None


def _weights(program: Program, graph: nx.DiGraph, nodes: Iterable[fx.Node]) -> tuple[str, ...]:
    """Names of the parameters that nodes read, also through constants."""
    found, todo = [], [operand for node in nodes for operand in node.all_input_nodes]
    seen: set[fx.Node] = set()
    while todo:
        node = todo.pop()
        if node in graph or node in seen or family(node) == "size":
            continue
        seen.add(node)
        todo += node.all_input_nodes
        if isinstance(program.tensor(node), torch.nn.Parameter):
            found.append(str(node.target))
    return tuple(sorted(set(found)))
