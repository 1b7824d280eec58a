"""Which weights are quantized without their activations: matrices that only linears read, and products, as right operands."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import fx

from fxopt.ir.op_table import PRODUCT_OPERANDS, arguments, family, find_quantized
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.common.stored_weights import LayerWeight, layer_weights, names_any, other_reader


@dataclass(frozen=True, eq=False)
class BlockWeight:
    """A weight to quantize, the layers that read it in order, and whether it is stored as ``[in, out]``."""

    name: str
    tensor: torch.Tensor
    layers: list[fx.Node]
    transposed: bool

    def rows(self) -> torch.Tensor:
        """The weight as ``[out, in]``."""
        return self.tensor.detach().T if self.transposed else self.tensor.detach()


def choose_weights(
    program: Program, keep_float: tuple[str, ...], otherwise: Collection[fx.Node] = ()
) -> list[BlockWeight]:
    """Weights in the order of their first readers. Every other contraction gets a skip with the reason.

    ``otherwise`` are layers that the caller quantizes in another way, and they get no skip.

    Raises PassError for a weight that is not finite, and where everything quantizable is quantized already.
    """
    weights, reasons = layer_weights(program)
    chosen = []
    for weight in weights:
        layers = list(dict.fromkeys(reader.layer for reader in weight.readers))
        reason = _declined(program, weight, keep_float)
        if reason:
            reasons |= dict.fromkeys(layers, reason)
            continue
        if not bool(weight.tensor.isfinite().all()):
            raise program.fail(layers[0], f"the weight {weight.names[0]!r} holds NaN or infinity")
        chosen.append(BlockWeight(weight.names[0], weight.tensor, layers, op_name(layers[0]) != "aten.linear"))
    done = {layer for weight in chosen for layer in weight.layers}
    for node in program.graph.nodes:
        if node in otherwise:
            continue
        if node in reasons or (family(node) == "contraction" and node not in done):
            program.skip(node, reasons.get(node, "it has no stored weight"))
    quantized = find_quantized(program.graph)
    if quantized is not None and not chosen and not otherwise:
        raise program.fail(quantized, "the program is quantized already; quantize a layer once, after all other passes")
    return chosen


def _declined(program: Program, weight: LayerWeight, keep_float: tuple[str, ...]) -> str | None:
    if names_any(keep_float, weight.names):
        return f"kept in float by keep_float={keep_float!r}"
    for reader in weight.readers:
        if family(reader.operand) == "quant":
            return "its weight is quantized already"
        operands = PRODUCT_OPERANDS.get(op_name(reader.layer))
        if operands is None or weight.tensor.dim() != 2:
            return "only linears, and products with a stored matrix on the right, are quantized"
        if reader.operand.op != "get_attr":
            return f"its weight is rearranged by {op_name(reader.operand)} first: run fold_constants before"
        if arguments(reader.layer)[operands[1]] is not reader.operand:
            return "its weight is on the left: only weights on the right are quantized"
    layers = [reader.layer for reader in weight.readers]
    if (other := other_reader(program, weight)) is not None:
        return f"%{other.name} reads its weight too, so that it would be stored twice"
    if len({op_name(layer) == "aten.linear" for layer in layers}) > 1:
        return "its weight is read by rows here and by columns there"
    if weight.tensor.dtype != torch.float32:
        return f"its weight is {weight.tensor.dtype}, not float32"
    if not weight.tensor.numel() or weight.tensor.shape[0 if op_name(layers[0]) != "aten.linear" else 1] < 2:
        return "it has no two inputs that could share a scale"
    return None
