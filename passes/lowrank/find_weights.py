"""Which weights of a program can be split, and why the others cannot."""

from __future__ import annotations

import torch
from torch import fx

from fxopt.errors import PassError
from fxopt.ir.op_table import DIRECT, PRODUCT_OPERANDS, TRANSPOSED, arguments, family, find_quantized
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.common.stored_weights import layer_weights
from fxopt.passes.common.weight_modes import Kind, SplitWeight

OPERANDS = {
    **PRODUCT_OPERANDS, "aten.embedding": ("indices", "weight"),
    **dict.fromkeys((*DIRECT, *TRANSPOSED), ("input", "weight")),
}  # fmt: skip
"""By op, the operands: the input and the weight."""

PRODUCTS = ("aten.matmul", "aten.mm", "aten.addmm")
"""Ops whose weight is stored as ``[in, out]``."""


def find_weights(program: Program) -> list[SplitWeight]:
    """The weights in the order of the graph. Every contraction without one gets a skip with the reason.

    A tied weight comes once, with all that read it. Raises PassError for a program that is quantized.
    """
    quantized = find_quantized(program.graph)
    if quantized is not None:
        raise program.fail(
            quantized,
            "the program is quantized: its scales and zero points would not fit the product of the factors; "
            "decompose first, quantize after all other passes",
        )
    weights, reasons = layer_weights(program)
    stored: dict[int, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if (tensor := program.tensor(node)) is not None:
            stored.setdefault(id(tensor), []).append(node)
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    tensors = {id(weight.tensor): weight.tensor for weight in weights}
    layers = {id(weight.tensor): [reader.layer for reader in weight.readers] for weight in weights}
    moved = {id(w.tensor): r.operand for w in weights for r in w.readers if r.operand.op != "get_attr"}
    for node in program.find("aten.embedding"):
        tensor = program.tensor(node.args[0])
        if tensor is not None:
            tensors.setdefault(id(tensor), tensor)
            layers.setdefault(id(tensor), []).append(node)
    found = []
    for key, tensor in tensors.items():
        names = tuple(dict.fromkeys(str(node.target) for node in stored[key]))
        readers = tuple(sorted({user for node in stored[key] for user in node.users}, key=order.__getitem__))
        if key in moved:
            reason: str | None = f"its weight is rearranged by {op_name(moved[key])} first: run fold_constants before"
        else:
            reason = _declined(program, tensor, readers)
        if reason:
            reasons |= dict.fromkeys(layers[key], reason)
            continue
        kind = _kind(readers[0])
        groups = 1 if kind == "matrix" else arguments(readers[0])["groups"]
        found.append(SplitWeight(names, tensor, readers, kind, groups, op_name(readers[0]) in PRODUCTS))
    done = {reader for weight in found for reader in weight.readers}
    for node in program.graph.nodes:
        if node in reasons or (family(node) == "contraction" and node not in done):
            program.skip(node, reasons.get(node, "it has no stored weight"))
    return sorted(found, key=lambda weight: order[weight.readers[0]])


def not_finite(program: Program, weight: SplitWeight) -> PassError:
    """The error about a weight that holds NaN or infinity."""
    return program.fail(weight.readers[0], f"the weight {weight.names[0]!r} holds NaN or infinity")


def _kind(node: fx.Node) -> Kind:
    name = op_name(node)
    return "transposed" if name in TRANSPOSED else "matrix" if name in PRODUCTS or "conv" not in name else "convolution"


def _declined(program: Program, tensor: torch.Tensor, readers: tuple[fx.Node, ...]) -> str | None:
    for node in readers:
        operands = OPERANDS.get(op_name(node))
        if operands is None:
            layer = family(node) == "contraction"
            return f"{op_name(node)} is not split" if layer else f"%{node.name} reads its weight too, and is no layer"
        call = arguments(node)
        if [program.tensor(value) is tensor for value in call.values()].count(True) != 1:
            return f"%{node.name} reads its weight twice"
        if program.tensor(call[operands[1]]) is not tensor:
            return f"%{node.name} reads it as another operand than its weight"
        if call.get("alpha", 1) != 1 or call.get("beta", 1) != 1:
            return "its alpha or beta is not 1"
    if len({(_kind(n), 1 if _kind(n) == "matrix" else arguments(n)["groups"]) for n in readers}) > 1:
        return "its weight is read by layers of different kinds"
    if _kind(readers[0]) == "matrix" and tensor.dim() != 2:
        return f"its weight has {tensor.dim()} dims, and a matrix is split"
    if tensor.dtype not in (torch.float32, torch.float64):
        return f"its weight is {tensor.dtype}, whose rounding hides a low rank: decompose in float32, cast after it"
    return None if tensor.numel() else "its weight has no elements"
