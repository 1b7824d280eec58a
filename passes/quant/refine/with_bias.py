"""A quantized layer with another bias."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.program import Program
from fxopt.ir.transfer import summable
from fxopt.passes.quant.encode import BIAS_LIMITS, LayerCodes, encode_bias


def corrected(program: Program, layer: fx.Node, old: LayerCodes, bias: torch.Tensor, input_scale: float) -> LayerCodes:
    """The quantized layer with ``bias`` float64 ``[out]``; the old one, and a report, where that is impossible."""
    found = with_bias(old, _name(layer), bias, input_scale)
    if isinstance(found, str):
        program.skip(layer, f"its bias is not corrected: {found}")
        return old
    return found


def with_bias(codes: LayerCodes, name: str, bias: torch.Tensor, input_scale: float) -> LayerCodes | str:
    """The quantized layer with ``bias``, called ``name`` where it had none, or the reason why not."""
    if bool((bias.abs() / (codes.weight.scales.double() * input_scale) > BIAS_LIMITS[1]).any()):
        return "the corrected bias does not fit 32 bits at the scale of the products"
    name = codes.bias.name if codes.bias else name
    return replace(codes, bias=encode_bias(name, bias, codes.weight.scales, input_scale, codes.weight.axis))


def channel_sum(value: torch.Tensor, weight_dims: int) -> tuple[torch.Tensor, int]:
    """Sum of a layer's output per channel over the batch and all positions, float64, and how many there are of each."""
    channel = value.dim() - weight_dims + 1
    sums = summable(value).double().sum([dim for dim in range(value.dim()) if dim != channel])
    return sums, value.numel() // value.shape[channel]


def _name(layer: fx.Node) -> str:
    """The name for the bias of a layer without one."""
    return f"{str(arguments(layer)['weight'].target).rpartition('.')[0]}.bias".lstrip(".")
