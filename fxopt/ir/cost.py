"""What a program costs: multiply-accumulates, parameters, bytes of weights. A plain function with a typed result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from fxopt.ir.op_table import lookup
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import concrete_shapes

_REGION = torch.ops.higher_order.wrap_with_autocast


@dataclass(frozen=True)
class Cost:
    """MACs for the example inputs, number of weight elements, bytes of all tensors, and ops that were not counted.

    A size that is known only when the model runs (the rows that a mask picks) counts as 1.
    """

    macs: int
    parameters: int
    bytes: int
    unknown: tuple[str, ...] = ()

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.macs - other.macs, self.parameters - other.parameters, self.bytes - other.bytes)


def macs_by_node(program: Program) -> dict[fx.Node, int]:
    """Multiply-accumulates of every contraction and recurrent layer, for the example inputs; a region's are all in it."""
    shape = concrete_shapes(program)
    found: dict[fx.Node, int] = {}
    for node in program.graph.nodes:
        inside = [row.macs(n, shape) for n in _calls(program, node) if (row := lookup(n)) and row.macs]
        if inside:
            found[node] = sum(inside)
    return found


def _calls(program: Program, node: fx.Node) -> Iterator[fx.Node]:
    """A call, or those in the region of autocast that it stands for."""
    if node.op != "call_function":
        return
    if node.target is not _REGION:
        yield node
        return
    region = program.module.get_submodule(str(node.args[4].target))  # type: ignore[union-attr]
    for inner in region.graph.nodes:  # type: ignore[union-attr]
        yield from _calls(program, inner)


def cost(program: Program) -> Cost:
    """Cost of a whole program. Weights that are tied count once.

    ``unknown`` names the ops that the op table lacks, and those with a graph of their own whose steps are not known, such
    as cond; regions of autocast are counted.
    """
    tensors = {id(t): t for t in program.tensors().values()}.values()
    calls = [call for node in program.graph.nodes for call in _calls(program, node)]
    unknown = sorted(
        {str(n.target) for n in calls if lookup(n) is None and isinstance(n.target, torch._ops.OperatorBase)}
    )
    return Cost(
        macs=sum(macs_by_node(program).values()),
        parameters=sum(t.numel() for t in tensors),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
        unknown=tuple(unknown),
    )
