"""The target output of each layer of a program: a value of the original program."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import fx

from fxopt.ir.op_table import arguments, family
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import concrete_shapes
from fxopt.ir.transfer import put
from fxopt.passes.common.layer_rows import MatrixLayer, layer_of
from fxopt.passes.refit.coded import Coded, coded_weight


@dataclass(frozen=True)
class Counterpart:
    """A layer, the node of the original whose value is its target, and which channels of that; None for all."""

    layer: MatrixLayer
    wanted: fx.Node
    kept: torch.Tensor | None = None
    coded: Coded | None = None

    def value(self, original: torch.Tensor) -> torch.Tensor:
        """The layer's target output, from the original's value."""
        if self.kept is None:
            return original
        node = self.layer.node
        dim = original.dim() - self.layer.weight.meta["val"].dim() + 1 if "conv" in op_name(node) else -1
        return original.index_select(dim, put(self.kept, original.device))


def counterparts(original: Program, program: Program) -> tuple[list[Counterpart], dict[fx.Node, str]]:
    """The layers in order with their targets; and for every contraction without one, the reason.

    A layer is known by the name of its weight. Which channels shrink has removed, the program records. A batch norm
    after the original's layer that the program no longer has was folded into it. Of a chain that factorize has made, the
    target belongs to the last layer.
    """
    readers, before = _readers(program), _readers(original)
    known = {str(node.target): tensor for node in original.graph.nodes if (tensor := original.tensor(node)) is not None}
    names = set(program.tensors())
    shapes, shapes_before = concrete_shapes(program), concrete_shapes(original)
    found: list[Counterpart] = []
    reasons: dict[fx.Node, str] = {}
    for node in program.graph.nodes:
        if family(node) != "contraction":
            continue
        made = _layer(program, node, readers)
        if isinstance(made, str):
            reasons[node] = made
            continue
        coded = coded_weight(program, node)
        name = coded.name if coded else str(made.weight.target)
        base = _base(name, made, known, names)
        if base is None:
            chained = any(_of_chain(other, name) for other in names)
            reasons[node] = (
                "it is within a chain, and the original has no such value"
                if chained
                else f"the original has no weight {name!r}"
            )
            continue
        there = before.get(id(known[base]), [])
        if len(there) != 1:
            reasons[node] = "its weight is read in several places of the original"
            continue
        ends, wanted = _norms(made.node), _norms(there[0])
        if len(ends) > len(wanted):
            reasons[node] = "the original has no such batch norm after it"
            continue
        target = wanted[len(wanted) - len(ends)]
        kept = _kept(original, program, made, name, base)
        want, give = list(shapes_before(target)), list(shapes(node))
        dim = len(give) - len(shapes(made.weight)) + 1 if "conv" in op_name(node) else len(give) - 1
        if kept is not None and want:
            want[dim] = len(kept)
        if want != give:
            reasons[node] = (
                f"its output is {give}, the original's {list(shapes_before(target))}, and which channels went is not recorded"
            )
        else:
            found.append(Counterpart(made, target, kept, coded))
    return found, reasons


def _layer(program: Program, node: fx.Node, readers: dict[int, list[fx.Node]]) -> MatrixLayer | str:
    """The layer, if its weight is stored and its own."""
    operands = [value for value in arguments(node).values() if program.tensor(value) is not None]
    for weight in operands:
        layer = layer_of(node, weight)
        if isinstance(layer, str):
            continue
        if readers[id(program.tensor(weight))] != [node]:
            return "its weight is read in several places"
        if layer.bias is not None and readers.get(id(program.tensor(layer.bias))) != [node]:
            return MatrixLayer(node, layer.data, weight, None, layer.groups, layer.transposed)
        return layer
    if coded := coded_weight(program, node):
        return layer_of(node, coded.weight)
    if operands:
        return "its op is not refitted; linears, matrix products and convolutions are"
    quantized = any(family(source) == "quant" for source in node.all_input_nodes)
    return "it is quantized" if quantized else "it has no stored weight"


def _base(name: str, layer: MatrixLayer, known: dict[str, torch.Tensor], names: set[str]) -> str | None:
    """The original's name for the weight; of a chain, for its last layer alone."""
    if name in known:
        return name
    match = re.fullmatch(r"(.+)_(\d+)", name)
    if match is None or match[1] not in known or match[1] in names or f"{match[1]}_{int(match[2]) + 1}" in names:
        return None
    inner = layer.data
    read = [str(n.target) for n in inner.all_input_nodes if n.op == "get_attr"]
    return match[1] if f"{match[1]}_{int(match[2]) - 1}" in read else None


def _of_chain(other: str, name: str) -> bool:
    """Whether ``other`` is the next weight of the chain that ``name`` is of."""
    match = re.fullmatch(r"(.+)_(\d+)", name)
    return match is not None and other == f"{match[1]}_{int(match[2]) + 1}"


def _norms(node: fx.Node) -> list[fx.Node]:
    """The node and the batch norms directly after it."""
    found = [node]
    while len(found[-1].users) == 1 and op_name(after := next(iter(found[-1].users))) == "aten.batch_norm":
        found.append(after)
    return found


def _kept(original: Program, program: Program, layer: MatrixLayer, name: str, base: str) -> torch.Tensor | None:
    """The outputs of the original's layer that are left, None for all; the original may have lost some itself."""
    dim = 1 if layer.transposed else 0
    before = original.kept_indices.get(base, {}).get(dim)
    kept = []
    for weight in dict.fromkeys((base, name)):
        indices = program.kept_indices.get(weight, {}).get(dim)
        if indices is not None and weight == base and before is not None:
            indices = None if len(indices) == len(before) else torch.searchsorted(before, indices)
        if indices is not None:
            kept.append(indices)
    return None if not kept else kept[0] if len(kept) == 1 else kept[0][kept[1]]


def _readers(program: Program) -> dict[int, list[fx.Node]]:
    readers: dict[int, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if (tensor := program.tensor(node)) is not None:
            readers.setdefault(id(tensor), []).extend(node.users)
    return readers
