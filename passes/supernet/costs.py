"""The cost of a sub-network, from the shapes of its values; computed once for each variant of a node."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import fx

from fxopt.ir.cost import counted_shapes, parameter_nodes
from fxopt.ir.op_table import arguments, family, lookup
from fxopt.passes.supernet.elastic import ElasticProgram
from fxopt.passes.supernet.space import Subnet
from fxopt.passes.supernet.variants import Key


@dataclass(frozen=True)
class NodeCost:
    """Multiply-accumulates of a call and elements of its result, or of a weight the number of parameters."""

    kind: str
    macs: int
    elements: int
    parameters: int


class Costs:
    """MACs and parameters of sub-networks, counted as :func:`fxopt.ir.cost.cost` counts them."""

    def __init__(self, elastic: ElasticProgram) -> None:
        self._elastic = elastic
        self._shape = counted_shapes(elastic.space.program)
        self._parameters = set(parameter_nodes(elastic.space.program))
        self._kinds = {node: _kind(node) for node in elastic.space.program.graph.nodes}
        self._found: dict[tuple[fx.Node, Key], NodeCost] = {}

    def nodes(self, subnet: Subnet) -> list[NodeCost]:
        """One cost for every node that is run."""
        return [self._of(node, subnet) for node in self._elastic.nodes(subnet.off)]

    def macs(self, subnet: Subnet) -> int:
        """Multiply-accumulates of the whole."""
        return sum(cost.macs for cost in self.nodes(subnet))

    def parameters(self, subnet: Subnet) -> int:
        """Number of parameters."""
        return sum(cost.parameters for cost in self.nodes(subnet))

    def features(self, subnet: Subnet) -> dict[str, float]:
        """By kind of layer its MACs, and for all others the elements of their results: the features that predict latency."""
        found: dict[str, float] = {}
        for cost in self.nodes(subnet):
            if amount := cost.macs or cost.elements:
                found[cost.kind] = found.get(cost.kind, 0) + amount
        return found

    def _of(self, node: fx.Node, subnet: Subnet) -> NodeCost:
        variants = self._elastic.variants
        key = (node, variants.key(node, subnet.widths))
        if key not in self._found:
            cut = variants.cut(node, subnet.widths)

            def shape(at: fx.Node) -> tuple[int, ...]:
                counts = [cut.count(axis) for axis in cut.sweep.of(at)]
                return tuple(n // old * max(new, 1) for n, (old, new) in zip(self._shape(at), counts, strict=True))

            row = lookup(node) if node.op == "call_function" else None
            macs = row.macs(node, shape) if row is not None and row.macs else 0
            single = node.op == "call_function" and cut.sweep.of(node)
            elements = math.prod(shape(node)) if single else 0
            parameters = math.prod(shape(node)) if node in self._parameters else 0
            self._found[key] = NodeCost(self._kinds[node], macs, elements, parameters)
        return self._found[key]


def _kind(node: fx.Node) -> str:
    """Layers whose kernels differ in speed: by family, and of convolutions those in groups and those of one position."""
    kind = family(node) or "other"
    if kind != "contraction" or not hasattr(node.target, "_schema"):
        return kind if kind == "contraction" else "elements"
    call = arguments(node)
    if "groups" not in call:
        return "products"
    if call["groups"] != 1:
        return "convolutions in groups"
    kernel = call["weight"].meta["val"].shape[2:]
    return "pointwise convolutions" if all(n == 1 for n in kernel) else "convolutions"
