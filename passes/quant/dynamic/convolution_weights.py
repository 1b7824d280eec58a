"""Int8 weights of convolutions that compute in float."""

from __future__ import annotations

from fnmatch import fnmatch

import torch

from fxopt import Program
from fxopt.ir.alias_analysis import alias_sets
from fxopt.ir.op_table import DIRECT, set_argument
from fxopt.ir.printer import op_name
from fxopt.passes.common.stored_weights import LayerWeight, layer_weights
from fxopt.passes.quant.emit import dequantized
from fxopt.passes.quant.encode import Codes
from fxopt.passes.quant.weights import largest_code, quantize_weight, weight_scales


def convolution_weights(program: Program, keep_float: tuple[str, ...]) -> list[LayerWeight]:
    """The float32 weights that convolutions alone read, as they are stored; without those that stay in float."""
    sets = alias_sets(program.graph)

    def fits(weight: LayerWeight) -> bool:
        layers = {reader.layer for reader in weight.readers}
        plain = all(op_name(r.layer) in DIRECT and r.operand.op == "get_attr" for r in weight.readers)
        kept = any(fnmatch(n, p) or fnmatch(n.rpartition(".")[0], p) for n in weight.names for p in keep_float)
        if not plain or kept or weight.tensor.dtype != torch.float32:
            return False
        root = sets[weight.readers[0].operand]
        return all(user in layers for node, its in sets.items() if its is root for user in node.users)

    return [weight for weight in layer_weights(program)[0] if fits(weight)]


def quantize_convolutions(program: Program, weights: list[LayerWeight]) -> None:
    """Store weights in int8 with a scale for each output channel. Raises PassError for one that is not finite."""
    largest = largest_code(8)
    for weight in weights:
        first = weight.readers[0].layer
        if not bool(weight.tensor.isfinite().all()):
            raise program.fail(first, f"the weight {weight.names[0]!r} holds NaN or infinity")
        scales = weight_scales(weight.tensor)
        codes = Codes(weight.names[0], quantize_weight(weight.tensor, scales), scales, (-largest, largest))
        real = dequantized(program, codes, first)
        for reader in weight.readers:
            set_argument(reader.layer, "weight", real)
