"""Int8 weights of convolutions that compute in float."""

from __future__ import annotations

import torch

from fxopt import Program
from fxopt.ir.op_table import DIRECT, set_argument
from fxopt.ir.printer import op_name
from fxopt.passes.common.stored_weights import LayerWeight, layer_weights, names_any, other_reader
from fxopt.passes.quant.emit import dequantized
from fxopt.passes.quant.encode import int8_codes


def convolution_weights(program: Program, keep_float: tuple[str, ...]) -> list[LayerWeight]:
    """The float32 weights that convolutions alone read, as they are stored; without those that stay in float."""
    return [
        weight
        for weight in layer_weights(program)[0]
        if all(op_name(r.layer) in DIRECT and r.operand.op == "get_attr" for r in weight.readers)
        and weight.tensor.dtype == torch.float32
        and not names_any(keep_float, weight.names)
        and other_reader(program, weight) is None
    ]


def quantize_convolutions(program: Program, weights: list[LayerWeight]) -> None:
    """Store weights in int8 with a scale for each output channel. Raises PassError for one that is not finite."""
    for weight in weights:
        first = weight.readers[0].layer
        if not bool(weight.tensor.isfinite().all()):
            raise program.fail(first, f"the weight {weight.names[0]!r} holds NaN or infinity")
        real = dequantized(program, int8_codes(weight.names[0], weight.tensor), first)
        for reader in weight.readers:
            set_argument(reader.layer, "weight", real)
