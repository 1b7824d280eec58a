"""The ops of a program as rows: origin, cost and precision of each."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fxopt.driver.part import Part

if TYPE_CHECKING:
    import torch
    from torch import fx

    from fxopt.ir.op_table import Shape
    from fxopt.ir.program import Program


class LayerFigures(Part):
    """One op of a program. ``inputs`` are the names of the ops that it reads; ``module`` is the path of the module that called
    it, or of the nearest known one; ``weight_bytes`` are those of the weights that it reads, including scales.
    """

    name: str
    op: str
    module: str = ""
    source: str = ""
    type: str = ""
    """Dtype and sizes of its result, in the text form of graphs."""
    inputs: tuple[str, ...] = ()
    macs: int = 0
    weight_bytes: int = 0
    value_bytes: int = 0
    """Bytes of its other inputs and its result, for as many examples as ``macs`` are counted for; at least, as a kernel in
    integers may write integers."""
    precision: str = ""
    """Precision of a contraction's operands: ``float32``, ``int8``, or ``int4 weights`` where only these are quantized."""


def layers_of(program: Program) -> list[LayerFigures]:
    """Every op of a program in its order; MACs are of what :func:`fxopt.ir.cost.macs_of` says.

    Ops that only dequantize a weight are part of the op that reads it.
    """
    from fxopt.ir.cost import counted_shapes, macs_by_node
    from fxopt.ir.printer import op_name, source_line, type_text

    macs, dims, shape = macs_by_node(program), program.dims(), counted_shapes(program)
    stored = _stored(program)
    modules: dict[fx.Node, str] = {}
    rows = []
    for node in program.graph.nodes:
        if node.op != "call_function" or node in stored:
            continue
        operands = [operand for operand in node.all_input_nodes if operand not in stored]
        weights = {id(t): t for operand in node.all_input_nodes for t in stored.get(operand, ())}
        modules[node] = _module(node, operands, modules)
        precision = _precision(node) if node in macs else ""
        rows.append(
            LayerFigures(
                name=node.name, op=op_name(node), module=modules[node], source=source_line(node),
                type=type_text(node.meta.get("val"), dims), inputs=tuple(operand.name for operand in operands),
                macs=macs.get(node, 0),
                weight_bytes=sum(t.numel() * t.element_size() for t in weights.values()),
                value_bytes=_value_bytes(node, operands, shape, precision), precision=precision,
            )
        )  # fmt: skip
    return rows


def _stored(program: Program) -> dict[fx.Node, tuple[torch.Tensor, ...]]:
    """The nodes that are weights, or are computed from weights alone, with the weights that they read."""
    found: dict[fx.Node, tuple[torch.Tensor, ...]] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            tensor = program.tensor(node)
            found[node] = () if tensor is None else (tensor,)
        elif node.op == "call_function" and node.all_input_nodes:
            inputs = node.all_input_nodes
            if all(operand in found for operand in inputs):
                found[node] = tuple(t for operand in inputs for t in found[operand])
    return found


def _value_bytes(node: fx.Node, operands: list[fx.Node], shape: Shape, precision: str) -> int:
    """Bytes that a kernel of a node reads besides weights, and writes; values that come out of integers are read as these, and
    a contraction of integers is taken to write them.
    """
    import torch

    total = 0
    for value in (node, *operands):
        found = value.meta.get("val")
        if isinstance(found, torch.Tensor):
            codes = precision if value is node else _codes(value)
            stored = getattr(torch, codes, None) if codes else None  # "int4 weights" is no dtype
            total += math.prod(shape(value)) * (stored or found.dtype).itemsize
    return total


def _module(node: fx.Node, operands: list[fx.Node], known: dict[fx.Node, str]) -> str:
    stack = node.meta.get("nn_module_stack")
    if stack:
        return str(next(reversed(stack.values()))[0])
    for operand in node.all_input_nodes:
        if operand.op == "get_attr":
            return str(operand.target).rpartition(".")[0]
    return next((known[operand] for operand in operands if operand in known), "")


def _precision(node: fx.Node) -> str:
    """Precision of a contraction's operands: the integers that they are dequantized from, or their own dtype."""
    from fxopt.ir.op_table import arguments

    bias = arguments(node).get("bias")
    kinds = [(_codes(operand), operand) for operand in node.all_input_nodes if operand is not bias]
    held = [kind for kind, _ in kinds if kind]
    if not held:
        value = node.meta.get("val")
        return str(getattr(value, "dtype", "")).removeprefix("torch.")
    # activations may be unsigned where weights are signed: only the width counts
    text = "int" + min((kind.lstrip("uint") for kind in held), key=lambda width: int(width or 0))
    return text if len(held) == len(kinds) else f"{text} weights"


def _codes(node: fx.Node) -> str | None:
    """The dtype of the integers that a value is dequantized from; None where it is computed in float."""
    from fxopt.ir.op_table import family

    while node.op == "call_function" and family(node) in ("layout", "copy"):
        node = node.all_input_nodes[0]
    if family(node) != "quant" or not node.all_input_nodes:
        return None
    dtype = getattr(node.all_input_nodes[0].meta.get("val"), "dtype", None)
    return None if dtype is None or dtype.is_floating_point else str(dtype).removeprefix("torch.")
