"""Regions between a dominator and a post-dominator: computed from one value alone, and read as one value alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import networkx as nx
import torch
from torch import fx

from fxopt.ir.alias_analysis import written
from fxopt.ir.cost import counted_shapes
from fxopt.ir.op_table import arguments, family
from fxopt.ir.program import Program
from fxopt.passes.blocks.block_program import block_program
from fxopt.passes.prune.depth.stream_graph import SOURCE, between, stream_graph, strict_dominators

_SINK = "outputs"


class Regions:
    """The stream of a program with its dominators and post-dominators (Cooper, Harvey and Kennedy 2001)."""

    def __init__(self, program: Program) -> None:
        self.program, self.graph = program, stream_graph(program)
        self._shape = counted_shapes(program)
        self._dominators = nx.immediate_dominators(self.graph, SOURCE)
        backward = self.graph.reverse()
        backward.add_node(_SINK)
        for node in self.graph:
            if node != SOURCE and any(user not in self.graph and family(user) != "size" for user in node.users):
                backward.add_edge(_SINK, node)
        reached = {_SINK, *nx.descendants(backward, _SINK)}
        self._behind = nx.immediate_dominators(backward.subgraph(reached), _SINK)
        self._readers: dict[int, set[fx.Node]] = {}
        for node in program.graph.nodes:
            if (tensor := program.tensor(node)) is not None:
                self._readers.setdefault(id(tensor), set()).update(node.users)

    def dominators(self, node: fx.Node) -> Iterator[fx.Node]:
        """The nodes on every path to a node, nearest first."""
        return (above for above in strict_dominators(self._dominators, node) if above != SOURCE)

    def post_dominators(self, node: fx.Node) -> Iterator[fx.Node]:
        """The nodes on every path from a node, nearest first."""
        return (below for below in strict_dominators(self._behind, node) if below != _SINK)

    def nodes(self, source: fx.Node, end: fx.Node) -> frozenset[fx.Node]:
        """``end`` and the nodes between ``source`` and it."""
        return between(self.graph, [source], end)

    def program_of(self, source: fx.Node, end: fx.Node) -> Program | str:
        """The region as a program of its own, or the reason why there is none."""
        if source not in set(self.dominators(end)):
            return f"%{end.name} does not come from %{source.name} alone"
        nodes = self.nodes(source, end)
        return self._reason(source, nodes, end) or block_program(self.program, self._shape, source, nodes, end)

    def _reason(self, source: fx.Node, nodes: frozenset[fx.Node], end: fx.Node) -> str | None:
        for node in (source, end):
            value = node.meta.get("val")
            if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
                return f"%{node.name} is no float32 tensor"
        for node in self.program.graph.nodes:
            if node in nodes and (reason := self._reason_of(node, nodes, end)):
                return reason
        return None

    def _reason_of(self, node: fx.Node, nodes: frozenset[fx.Node], end: fx.Node) -> str | None:
        if written(node):
            return f"%{node.name} writes into memory that others may read; run functionalize_writes first"
        if family(node) == "random":
            return f"%{node.name} drops values at random"
        if family(node) == "norm" and _of_the_batch(node):
            return f"%{node.name} normalises over the batch, as in training"
        if node is not end:
            outside = next((user for user in node.users if not self._inside(user, nodes)), None)
            if outside is not None:
                what = "an output of the model" if outside.op == "output" else f"%{outside.name}"
                return f"%{node.name} inside it is read by {what} too"
        for operand in node.all_input_nodes:
            tensor = self.program.tensor(operand)
            readers = self._readers[id(tensor)] - nodes if tensor is not None else ()
            others = sorted((n.name for n in readers if not self._inside(n, nodes)), key=str)
            if others:
                return f"its weight {str(operand.target)!r} is read by %{others[0]} too"
        return None

    def _inside(self, user: fx.Node, nodes: frozenset[fx.Node]) -> bool:
        """Whether a reader is in the region, or makes a constant or a size that only the region reads."""
        if user in nodes:
            return True
        aside = user.op == "call_function" and user not in self.graph and bool(user.users)
        return aside and all(self._inside(reader, nodes) for reader in user.users)


def _of_the_batch(node: fx.Node) -> bool:
    call: dict[str, Any] = arguments(node)
    return bool(call.get("training") or call.get("use_input_stats"))
