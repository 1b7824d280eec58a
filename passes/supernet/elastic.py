"""A program of which any sub-network can be run, on the weights that all of them share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxopt.ir.alias_analysis import alias_sets, written
from fxopt.ir.op_table import STATISTICS, arguments, family
from fxopt.ir.printer import op_name
from fxopt.ir.transfer import put
from fxopt.passes.supernet.space import Space, Subnet
from fxopt.passes.supernet.variants import Variants
from fxopt.passes.train.population import Moments

Statistics = Mapping[fx.Node, tuple[torch.Tensor, torch.Tensor]]
"""Mean and variance, by batch norm, in place of the stored ones."""


class ElasticProgram:
    """Runs sub-networks of a space node by node. Weights are sliced, not copied, so that gradients reach the shared ones.

    How a width changes a node, in the indices of a weight or the constants of a call, comes from the rules by which shrink
    rewrites the graph, and is computed once for each choice of the widths that the node depends on. So a sub-network costs
    as much as its extracted program. Buffers are copied: a batch norm of a sub-network in training does not write into
    the statistics of all.
    """

    def __init__(self, space: Space) -> None:
        self.space, self.variants = space, Variants(space)
        self._totals = {layer.branch.total: number for number, layer in enumerate(space.layers)}
        self._orders: dict[tuple[int, ...], tuple[fx.Node, ...]] = {}
        self._memory = alias_sets(space.program.graph)
        self._writes = {n: {self._memory[o] for o in written(n)} for n in space.program.graph.nodes if written(n)}

    def nodes(self, off: Sequence[int]) -> tuple[fx.Node, ...]:
        """The nodes that are run where these branches are off, in order."""
        key = tuple(sorted(off))
        if key not in self._orders:
            wanted: set[fx.Node] = set()
            todo = [self.space.program.graph.output_node()]
            while todo:
                while todo:
                    node = todo.pop()
                    if node not in wanted:
                        wanted.add(node)
                        todo += self.operands(node, key)
                memory = {self._memory[node] for node in wanted}
                todo = [n for n, into in self._writes.items() if n not in wanted and not memory.isdisjoint(into)]
            self._orders[key] = tuple(n for n in self.space.program.graph.nodes if n in wanted)
        return self._orders[key]

    def operands(self, node: fx.Node, off: Collection[int]) -> list[fx.Node]:
        """The operands of a node; of a sum whose branch is off, the stream alone."""
        number = self._totals.get(node, -1)
        return [self.space.layers[number].branch.stream] if number in off else node.all_input_nodes

    def canonical(self, subnet: Subnet) -> Subnet:
        """The same sub-network, with widths whole that only matter to branches that are off."""
        off = self._with_inner(subnet.off)
        used = {number for node in self.nodes(off) for number in self.variants.touched[node]}
        whole = self.space.whole.widths
        return Subnet(tuple(w if i in used else whole[i] for i, w in enumerate(subnet.widths)), off)

    def _with_inner(self, off: Sequence[int]) -> tuple[int, ...]:
        """These branches and those inside them."""
        layers = self.space.layers
        inner = {i for i, layer in enumerate(layers) for j in off if layers[j].branch.holds(layer.branch)}
        return tuple(sorted({*off, *inner}))

    def run(self, subnet: Subnet, leaves: Sequence[Any], statistics: Statistics | None = None) -> Any:
        """The outputs of a sub-network in their structure, for flat inputs, with gradients if enabled."""
        return self.run_all(subnet, [leaves], statistics)[0]

    def run_all(
        self,
        subnet: Subnet,
        batches: Sequence[Sequence[Any]],
        statistics: Statistics | None = None,
        *,
        estimate_from: int = 0,
    ) -> list[Any]:
        """Outputs for several batches of flat inputs, in step.

        With ``estimate_from`` above 0, batch norms normalise by the mean and unbiased variance of their inputs in so
        many of the first batches, with the norms before them doing so already; see reestimate_batch_norm.
        """
        order = self.nodes(subnet.off)
        last: dict[fx.Node, fx.Node] = {}
        for node in order:
            for operand in self.operands(node, subnet.off):
                last[operand] = node
        ends: dict[fx.Node, list[fx.Node]] = {}
        for operand, node in last.items():
            ends.setdefault(node, []).append(operand)
        inputs = {node: i for i, node in enumerate(self.space.program.inputs())}
        values: dict[fx.Node, list[Any]] = {}
        for node in order:
            if node.op == "placeholder":
                values[node] = [leaves[inputs[node]] for leaves in batches]
            elif node.op == "get_attr":
                values[node] = [self._weight(node, subnet)] * len(batches)
            elif node.op == "output":
                each = [{n: values[n][i] for n in node.all_input_nodes} for i in range(len(batches))]
                values[node] = [fx.node.map_arg(node.args[0], operands.__getitem__) for operands in each]
            elif node.op == "call_function" and family(node) != "check":
                values[node] = self._called(node, subnet, values, len(batches), statistics, estimate_from)
            for operand in ends.get(node, ()):
                values.pop(operand, None)
        graph = self.space.program.graph
        return [graph.process_outputs(value) for value in values[order[-1]]]

    def _weight(self, node: fx.Node, subnet: Subnet) -> Any:
        tensor = self.space.program.tensor(node)
        assert tensor is not None
        value: torch.Tensor = tensor
        for dim, pick in self.variants.picks(node, subnet.widths):
            value = (
                value.narrow(dim, 0, pick)
                if isinstance(pick, int)
                else value.index_select(dim, put(pick, value.device))
            )
        return value if isinstance(tensor, torch.nn.Parameter) else value.clone()

    def _called(
        self,
        node: fx.Node,
        subnet: Subnet,
        values: dict[fx.Node, list[Any]],
        count: int,
        statistics: Statistics | None,
        estimate_from: int,
    ) -> list[Any]:
        if self.operands(node, subnet.off) != node.all_input_nodes:
            stream = values[self.space.layers[self._totals[node]].branch.stream]
            return [value.clone() for value in stream] if self._writes else stream
        given: dict[fx.Node, torch.Tensor] = {}
        if (estimate_from or statistics) and _normalises(node):
            roles = arguments(node)
            found = _moments(values[roles["input"]][:estimate_from]) if estimate_from else (statistics or {}).get(node)
            for name, value in zip(STATISTICS, found or (), strict=bool(found)):
                stored = values[roles[name]][0]
                given[roles[name]] = put(value, stored.device).to(stored.dtype)
        call = self.variants.call(node, subnet.widths)
        results = []
        for i in range(count):
            operands = {n: given.get(n, values[n][i]) for n in node.all_input_nodes}
            if call is not None:
                results.append(call(*operands.values()))
            else:
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), operands.__getitem__)
                results.append(node.target(*args, **kwargs))  # type: ignore[operator]
        return results


def _normalises(node: fx.Node) -> bool:
    """Whether it is a batch norm with statistics that are stored."""
    if op_name(node) != "aten.batch_norm":
        return False
    call = arguments(node)
    return not call["training"] and call["running_mean"] is not None and call["running_var"] is not None


def _moments(values: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    moments = Moments(values[0].shape[1])
    for value in values:
        moments.add(value.detach())
    return moments.result()
