"""Stored weights of contractions: which tensor a layer multiplies with, and along which dim it sums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from torch import fx

from fxopt.ir.alias_analysis import alias_sets, written_sets
from fxopt.ir.op_table import Trait, arguments, family, has
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program

_SUMMED: dict[str, dict[str, int | None]] = {
    "aten.conv1d": {"weight": 1}, "aten.conv2d": {"weight": 1}, "aten.conv3d": {"weight": 1},
    "aten.conv_transpose1d": {"weight": 0}, "aten.conv_transpose2d": {"weight": 0},
    "aten.conv_transpose3d": {"weight": 0}, "aten.linear": {"weight": -1}, "aten.mv": {"self": -1},
    "aten.matmul": {"self": -1, "other": -2}, "aten.mm": {"self": -1, "mat2": -2}, "aten.bmm": {"self": -1, "mat2": -2},
    "aten.addmm": {"mat1": -1, "mat2": -2}, "aten.baddbmm": {"batch1": -1, "batch2": -2},
    "aten.einsum": {"tensors": None},
}  # fmt: skip
"""By op, the operands that may be a weight, and the dim of each that is summed over: input channels, without groups."""


@dataclass(frozen=True)
class Reader:
    """A contraction, the operand through which it reads a weight, and the operand's dim that it sums over, if known."""

    layer: fx.Node
    operand: fx.Node
    dim: int | None


@dataclass(eq=False)
class LayerWeight:
    """A stored weight under all its names, and the contractions that read it, maybe rearranged or a part of it."""

    names: list[str]
    tensor: torch.Tensor
    readers: list[Reader] = field(default_factory=list)
    quantized: bool = False


def layer_weights(program: Program) -> tuple[list[LayerWeight], dict[fx.Node, str]]:
    """The stored weights of all contractions, in the order of the graph; and the layers without one, with the reason.

    A tied weight comes once. A product of two activations has no weight, and is in neither.
    """
    names: dict[int, list[str]] = {}
    for name, tensor in program.tensors().items():
        names.setdefault(id(tensor), []).append(name)
    constant = _constant(program)
    sets = alias_sets(program.graph)
    dirty = written_sets(program.graph, sets)
    found: dict[int, LayerWeight] = {}
    declined: dict[fx.Node, str] = {}
    for layer in program.graph.nodes:
        if family(layer) == "recurrent":
            declined[layer] = "the weights of recurrent layers are left alone; quantize_dynamic takes them"
        for operand, dim in _operands(layer):
            if operand not in constant:
                continue
            path = _path(operand)
            stored = program.tensor(path[-1])
            if stored is None:
                declined[layer] = f"its weight is computed by {op_name(path[-1])}, not stored: run fold_constants first"
            elif sets[path[-1]] in dirty:
                declined[layer] = f"the graph writes to its weight {str(path[-1].target)!r}"
            else:
                weight = found.setdefault(id(stored), LayerWeight(names[id(stored)], stored))
                weight.readers.append(Reader(layer, operand, dim))
                weight.quantized |= any(family(node) == "quant" for node in path)
    return list(found.values()), declined


def names_any(patterns: Iterable[str], names: Iterable[str]) -> bool:
    """Whether a pattern, with wildcards, names a weight by one of its names, or the module that has it."""
    return any(fnmatch(n, p) or fnmatch(n.rpartition(".")[0], p) for n in names for p in patterns)


def other_reader(program: Program, weight: LayerWeight) -> fx.Node | None:
    """What reads a weight besides its contractions, a view of it included; None if nothing does."""
    layers = [reader.layer for reader in weight.readers]
    nodes = [node for node in program.graph.nodes if program.tensor(node) is weight.tensor]
    return next((user for node in nodes for user in node.users if user not in layers), None)


def element_numbers(weight: LayerWeight, reader: Reader) -> torch.Tensor | None:
    """Flat indices int64 of the weight's elements as the operand arranges them; None where that depends on the inputs."""
    value: Any = torch.arange(weight.tensor.numel()).reshape(weight.tensor.shape)
    for node in reversed(_path(reader.operand)[:-1]):
        if family(node) not in ("layout", "pick", "copy"):
            continue
        if len(node.all_input_nodes) > 1:
            return None
        value = node.target(value, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return value


def _operands(layer: fx.Node) -> Iterator[tuple[fx.Node, int | None]]:
    if family(layer) != "contraction":
        return
    call = arguments(layer)
    for name, dim in _SUMMED.get(_packet(layer), {}).items():
        for operand in call[name] if name == "tensors" else [call[name]]:
            one_dim = isinstance(operand.meta.get("val"), torch.Tensor) and operand.meta["val"].dim() == 1
            yield operand, -1 if one_dim and dim is not None else dim


def _path(operand: fx.Node) -> list[fx.Node]:
    """From an operand back to the weight whose elements it holds, or to what computes it."""
    path = [operand]
    while path[-1].op != "get_attr":
        node = path[-1]
        same = has(node, Trait.SAME_VALUE) or has(node, Trait.CAST) or _packet(node) == "fxopt.fake_quantize"
        moves = same or family(node) in ("layout", "pick", "copy", "quant")
        if not moves or not node.args or not isinstance(node.args[0], fx.Node):
            break
        path.append(node.args[0])
    return path


def _constant(program: Program) -> set[fx.Node]:
    """Nodes that depend on weights and sizes alone."""
    found: set[fx.Node] = set()
    for node in program.graph.nodes:
        sources = node.all_input_nodes
        stored = node.op == "get_attr" or family(node) == "size"
        if stored or (node.op == "call_function" and sources and all(source in found for source in sources)):
            found.add(node)
    return found


def _packet(node: fx.Node) -> str:
    """The op without its overload: ``aten.conv2d`` of ``aten.conv2d.padding``."""
    return ".".join(op_name(node).split(".")[:2])
