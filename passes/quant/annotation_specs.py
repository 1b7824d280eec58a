"""Specs of PT2E annotations as formats and quantization parameters; those of torchao, executorch and older torch are alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.passes.quant.observers import Affine, Format

Edge = tuple[fx.Node, fx.Node | None]
"""A value and one of its readers, or a value and None: its result, for all readers."""

_PER_TENSOR = (torch.per_tensor_affine, torch.per_tensor_symmetric)
_INTEGERS = {torch.uint8: (8, False), torch.int8: (8, True), torch.uint16: (16, False), torch.int16: (16, True)}


def shared_with(spec: Any) -> Edge | None:
    """The edge whose scale a SharedQuantizationSpec takes; None for another spec."""
    nodes = getattr(spec, "edge_or_node", None)
    if nodes is None:
        return None
    return (nodes[0], nodes[1] if len(nodes) > 1 else None)


def asked_code(spec: Any) -> Format | Affine | str:
    """The activation format that a spec asks for, all quantization parameters where it fixes them, or the reason why not."""
    if getattr(spec, "is_dynamic", False):
        return "ranges taken at run time are those of quantize_dynamic"
    if hasattr(spec, "derive_qparams_fn"):
        return "a scale that is derived from others is that of a bias"
    if spec.dtype not in _INTEGERS:
        return f"{spec.dtype} is no format of activations here; there are {', '.join(str(d) for d in _INTEGERS)}"
    if spec.qscheme not in (None, *_PER_TENSOR):
        return f"activations have one scale for the whole tensor, not {spec.qscheme}"
    form = _format(spec)
    if isinstance(form, str) or not hasattr(spec, "zero_point"):
        return form
    return Affine(float(spec.scale), int(spec.zero_point), form)


def asked_weight(spec: Any) -> bool | str:
    """Whether a weight has one scale (or one for each output channel), or the reason why the spec cannot be met."""
    if spec.dtype is not torch.int8 or getattr(spec, "is_dynamic", False):
        return f"the quantizer asks for a weight of {spec.dtype}; weights of layers are int8 here"
    if spec.quant_max not in (None, 127):
        return (
            f"the quantizer asks for weights up to {spec.quant_max}; train_quantized and quantize_weights have few bits"
        )
    if spec.qscheme == torch.per_channel_symmetric and not spec.ch_axis:
        return False
    if spec.qscheme == torch.per_tensor_symmetric:
        return True
    return (
        f"the quantizer asks for a weight of {spec.qscheme} along axis {spec.ch_axis}; weights are symmetric by output"
    )


def _format(spec: Any) -> Format | str:
    bits, signed = _INTEGERS[spec.dtype]
    symmetric = spec.qscheme == torch.per_tensor_symmetric
    if symmetric and not signed:
        return f"symmetric {spec.dtype} is not among the formats; take a signed one"
    low, high = spec.quant_min, spec.quant_max
    if high is not None:
        bits = (int(high) + 1).bit_length() - (0 if signed else 1)
    form = Format(bits, signed, symmetric)
    if (low is not None and low not in (form.limits[0], form.limits[0] + (1 if symmetric else 0))) or (
        high is not None and high != form.limits[1]
    ):
        return f"integers from {low} to {high} are not those of a whole number of bits"
    return form
