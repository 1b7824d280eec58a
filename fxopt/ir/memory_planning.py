"""The memory a program needs at run time, from its graph alone: weights, and the values that are live at once."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import fx

from fxopt.ir.alias_analysis import alias_sets
from fxopt.ir.op_table import family
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import concrete_shapes

_SHOWN = 5


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of ``weights``, and of the ``values`` live at the peak, the ``largest`` of them first.

    A runtime takes some tens of megabytes more, for its code and packed weights.
    """

    weights: int
    values: int
    at: str
    largest: tuple[tuple[str, int], ...]


def plan_memory(program: Program) -> MemoryPlan:
    """Plan for the example inputs: each value is live from the node that computes it to the last reader of it or of a view.

    Inputs and outputs count, as the caller holds them. Values that kernels fuse away do not: an activation reuses the memory
    of its operand if nothing else reads that, and values that are only quantized, or dequantized, take none, since integer
    kernels read and write integers. Tied weights count once.
    """
    shape = concrete_shapes(program)
    shared = alias_sets(program.graph)
    for node in program.graph.nodes:
        operands = node.all_input_nodes
        if _dequantizes(node):
            shared[node] = shared[operands[0]]
        if (
            family(node) == "unary"
            and len(operands) == 1
            and len(operands[0].users) == 1
            and operands[0].op != "placeholder"
        ):
            shared[node] = shared[operands[0]]
    nodes = list(program.graph.nodes)
    places = {node: i for i, node in enumerate(nodes)}
    sizes: dict[fx.Node, int] = {}
    first: dict[fx.Node, int] = {}
    last: dict[fx.Node, int] = {}
    for node in nodes:
        whole = shared[node]
        if node.op not in ("placeholder", "call_function") or whole.op == "get_attr" or _fused(node):
            continue
        size = 0 if _dequantizes(node) else _bytes(node, shape(node))
        sizes[whole] = max(sizes.get(whole, 0), size)
        first.setdefault(whole, places[node])
        last[whole] = max([last.get(whole, 0), places[node], *(places[user] for user in node.users)])
    born: dict[int, list[fx.Node]] = defaultdict(list)
    for value, place in first.items():
        born[place].append(value)
    alive: list[fx.Node] = []
    most, values, at = -1, [], nodes[-1]
    for i, node in enumerate(nodes):
        alive = [value for value in alive if last[value] >= i] + born[i]
        if (total := sum(sizes[value] for value in alive)) > most:
            most, values, at = total, list(alive), node
    values.sort(key=lambda value: -sizes[value])
    largest = tuple((program.describe(value), sizes[value]) for value in values[:_SHOWN] if sizes[value])
    weights = {id(tensor): tensor for tensor in program.tensors().values()}.values()
    return MemoryPlan(
        sum(tensor.numel() * tensor.element_size() for tensor in weights), max(most, 0), program.describe(at), largest
    )


def _dequantizes(node: fx.Node) -> bool:
    return family(node) == "quant" and "dequantize" in str(node.target)


def _fused(node: fx.Node) -> bool:
    """Whether the kernel that computes a value writes it quantized, maybe after an activation."""
    return bool(node.users) and all(
        not _dequantizes(user) if family(user) == "quant" else family(user) == "unary" and _fused(user)
        for user in node.users
    )


def _bytes(node: fx.Node, shape: tuple[int, ...]) -> int:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return 0
    count = 1
    for size in shape:
        count *= size
    return count * value.element_size()
