"""Layers' weights and biases quantized to integers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import fx

from fxopt import Program
from fxopt.backend.quant_policy import Policy
from fxopt.ir.op_table import arguments
from fxopt.passes.quant.observers import Affine
from fxopt.passes.quant.weights import (
    largest_code,
    quantize_bias,
    quantize_weight,
    weight_scales,
    widen_for_bias,
    widen_for_pairs,
)
from fxopt.target.int8_pairs import adds_pairs

BIAS_LIMITS = (-(2**31) + 1, 2**31 - 1)


@dataclass(frozen=True, eq=False)
class Codes:
    """A quantized tensor: integers within ``limits``, ``scales`` float32 for each index along ``axis``; ``name`` is the weight's.

    Where ``axis`` is None the scales, one for each output, are all the same.
    """

    name: str
    integers: torch.Tensor
    scales: torch.Tensor
    limits: tuple[int, int]
    axis: int | None = 0

    def real(self) -> torch.Tensor:
        """The dequantized tensor, float32, as the dequantize op computes it."""
        shape = [1] * self.integers.dim()
        shape[self.axis or 0] = -1
        return self.integers.float() * self.scales.reshape(shape)


@dataclass(frozen=True, eq=False)
class LayerCodes:
    """The quantized weight and bias of a convolution or linear."""

    weight: Codes
    bias: Codes | None


def int8_codes(name: str, weight: torch.Tensor, *, safe_pairs: bool = False) -> Codes:
    """``weight`` [out, ...] in int8 with a scale for each output; ``safe_pairs`` as in :func:`weight_scales`."""
    scales, largest = weight_scales(weight, safe_pairs), largest_code(8)
    return Codes(name, quantize_weight(weight, scales), scales, (-largest, largest))


def encode_layers(
    program: Program,
    layers: Iterable[fx.Node],
    inputs: dict[fx.Node, Affine],
    policy: Policy,
    *,
    bits: int = 8,
    learned: dict[fx.Node, torch.Tensor] | None = None,
    per_tensor: Collection[fx.Node] = (),
) -> dict[fx.Node, LayerCodes]:
    """Quantized weights and biases of every layer; ``inputs`` has the quantization parameters of its input.

    Weights are symmetric per output channel, of ``bits`` bits in int8; without the policy's ``per_channel``, and for the
    layers in ``per_tensor``, all channels of a weight have the largest scale. A bias is int32 at the scale of the products that
    it is added to, for which a weight's scale is widened if needed. Layers that share a weight share the quantized one if
    the scales are equal. ``learned`` has scales ``[out]`` from training; the kernels' limits hold for them too.
    """
    found: dict[fx.Node, LayerCodes] = {}
    known: dict[tuple[int, bytes, int | None], Codes] = {}
    for layer in layers:
        call = arguments(layer)
        weight, bias = program.tensor(call["weight"]), program.tensor(call["bias"])
        assert weight is not None
        input_scale = inputs[call["input"]].scale
        bounded = needs_safe_pairs(layer, weight, policy)
        if learned is None:
            scales = weight_scales(weight, bounded, bits)
        else:
            scales = widen_for_pairs(learned[layer], weight, bits) if bounded else learned[layer]
        if bias is not None:
            scales = widen_for_bias(scales, bias, input_scale)
        axis = 0 if policy.per_channel and layer not in per_tensor else None
        if axis is None:
            scales = scales.amax().expand_as(scales).contiguous()
        key = (id(weight), scales.numpy().tobytes(), axis)
        if key not in known:
            integers, largest = quantize_weight(weight, scales, bits), largest_code(bits)
            known[key] = Codes(str(call["weight"].target), integers, scales, (-largest, largest), axis)
        codes = None
        if bias is not None:
            codes = encode_bias(str(call["bias"].target), bias, scales, input_scale, axis)
        found[layer] = LayerCodes(known[key], codes)
    return found


def encode_bias(name: str, bias: torch.Tensor, scales: torch.Tensor, input_scale: float, axis: int | None = 0) -> Codes:
    """``bias`` ``[out]`` in int32 at the scale of the products of the weight, of ``scales``, and the input."""
    both = (scales.double() * input_scale).float()
    return Codes(name, quantize_bias(bias, both), both, BIAS_LIMITS, axis)


def needs_safe_pairs(layer: fx.Node, weight: torch.Tensor, policy: Policy) -> bool:
    """Whether the kernels that multiply by the ``weight`` of a layer add pairs in 16 bits."""
    return policy.pairs_in_16_bits and adds_pairs(tuple(weight.shape), arguments(layer).get("groups", 1))
