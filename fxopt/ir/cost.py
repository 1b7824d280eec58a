"""The cost of a program: multiply-accumulates, parameters, bytes of weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from fxopt.ir.op_table import Shape, arguments, family, lookup
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import concrete_shapes

_REGION = torch.ops.higher_order.wrap_with_autocast


@dataclass(frozen=True)
class Cost:
    """MACs (see :func:`macs_of`), number of parameters, bytes of all tensors, and ops that were not counted.

    A data-dependent size (the rows that a mask selects) counts as 1.
    """

    macs: int
    parameters: int
    bytes: int
    unknown: tuple[str, ...] = ()

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.macs - other.macs, self.parameters - other.parameters, self.bytes - other.bytes)


def macs_of(program: Program) -> str:
    """What MACs are counted of: ``one example`` where the batch is dynamic, ``the example inputs`` where it is fixed.

    Other dynamic sizes are those of the example inputs in either case.
    """
    return "one example" if "batch" in program.dims().values() else "the example inputs"


def counted_shapes(program: Program) -> Shape:
    """Return a function from a node to the shape that its MACs are counted for, see :func:`macs_of`."""
    return concrete_shapes(program, batch=1)


def macs_by_node(program: Program) -> dict[fx.Node, int]:
    """Multiply-accumulates of every contraction and recurrent layer, see :func:`macs_of`; a region's are all in it."""
    shape = counted_shapes(program)
    found: dict[fx.Node, int] = {}
    for node in program.graph.nodes:
        inside = [row.macs(n, shape) for n in _calls(program, node) if (row := lookup(n)) and row.macs]
        if inside:
            found[node] = sum(inside)
    return found


def _calls(program: Program, node: fx.Node) -> Iterator[fx.Node]:
    """A call, or those in the autocast region that it runs."""
    if node.op != "call_function":
        return
    if node.target is not _REGION:
        yield node
        return
    region = program.module.get_submodule(str(node.args[4].target))  # type: ignore[union-attr]
    for inner in region.graph.nodes:  # type: ignore[union-attr]
        yield from _calls(program, inner)


def parameter_nodes(program: Program) -> list[fx.Node]:
    """A ``get_attr`` node for every parameter, tied ones once; their elements are what is counted.

    Parameters are trained, in float or quantized. Buffers, such as running statistics and tables of positions, are none,
    nor are scales and zero points.
    """
    nodes = [node for node in program.graph.nodes if program.tensor(node) is not None]
    found = {id(program.tensor(node)): node for node in nodes if _is_parameter(program, node)}
    return list(found.values())


def _is_parameter(program: Program, node: fx.Node) -> bool:
    quant = [user for user in node.users if family(user) == "quant"]
    if any(arguments(user).get("input") is node for user in quant):
        return True
    return isinstance(program.tensor(node), torch.nn.Parameter) and (len(quant) < len(node.users) or not quant)


def cost(program: Program) -> Cost:
    """Cost of a whole program. Weights that are tied count once.

    ``unknown`` names the ops that the op table lacks, and those with a graph of their own that is not counted, such as
    cond; autocast regions are counted.
    """
    tensors = {id(t): t for t in program.tensors().values()}.values()
    calls = [call for node in program.graph.nodes for call in _calls(program, node)]
    unknown = sorted(
        {str(n.target) for n in calls if lookup(n) is None and isinstance(n.target, torch._ops.OperatorBase)}
    )
    return Cost(
        macs=sum(macs_by_node(program).values()),
        parameters=sum(t.numel() for n in parameter_nodes(program) if (t := program.tensor(n)) is not None),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
        unknown=tuple(unknown),
    )
