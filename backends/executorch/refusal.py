"""Which ops ExecuTorch has no kernel for, known before the build starts."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx

from fxopt.backend import refuses_training
from fxopt.backends.executorch.runtime import library, quiet
from fxopt.ir.alias_analysis import written
from fxopt.ir.decompose import decomposed
from fxopt.ir.op_table import PRODUCT_OPERANDS, arguments, family
from fxopt.ir.printer import op_name

_WAY_OUT = "replace it by other ops before the build"


def refuses(node: fx.Node) -> str | None:
    """Why the runtime has no kernel of a call; None if it has, directly or through torch's decomposition to core ops."""
    if not isinstance(node.target, torch._ops.OpOverload) or family(node) in ("check", "size"):
        return None
    name = op_name(node)
    if family(node) == "quant":
        return _quantized(node, name)
    if reason := _not_as_called(node, name):
        return reason
    if _has_kernel(node.target):
        return None
    try:
        missing = [op for op in decomposed(node, _decompositions()) if not _has_kernel(op)]
    except Exception as error:
        return (
            f"ExecuTorch has no kernel of {name}, and decomposing it fails: {type(error).__name__}: {error}; {_WAY_OUT}"
        )
    way_out = _WAY_OUT
    if written(node):
        way_out = (
            "it writes where others see it: write into a clone of the input, and return that, or use the backend tvm"
        )
    if node.target in missing:
        return f"ExecuTorch has no kernel of {name}, and torch no decomposition; {way_out}"
    if missing:
        return (
            f"ExecuTorch has no kernel of {name}, which decomposes into {', '.join(map(str, missing))}, "
            f"without one too; {_WAY_OUT}"
        )
    return None


def _not_as_called(node: fx.Node, name: str) -> str | None:
    if reason := refuses_training(node):
        return reason
    if name.startswith("aten.conv") and arguments(node)["weight"].meta["val"].dim() == 5:
        return f"ExecuTorch's convolutions are over lines and images, {name} here is over volumes; use the backend onnx"
    if name == "aten.prelu" and node.args[0].meta["val"].dim() != 4:  # type: ignore[union-attr]
        return "XNNPACK takes prelu of images alone, and fails at others; write torch.where(x > 0, x, w * x)"
    if name == "aten.index.Tensor" and any(
        i is not None and i.meta["val"].dtype == torch.bool for i in arguments(node)["indices"]
    ):
        return f"{name} by a mask has as many results as the mask has hits, known only when it runs; use torch.where"
    return None


def _quantized(node: fx.Node, name: str) -> str | None:
    """Why there is no integer form of a quantize or dequantize op; None if there is, or a float one with its numbers."""
    if not _dtypes(node).isdisjoint((torch.uint16, torch.int16)):
        return "XNNPACK computes in bytes, not in 16 bits; quantize to 8 bits, or take the backend onnx(opset=21)"
    if name.endswith("_group"):
        return _blocks(node)
    if "per_token" in name:
        return _token(node, name)
    if name.endswith((".tensor", ".tensor2")):
        return (
            f"XNNPACK has {name} of a range that is found as it runs for each token alone; quantize for this backend, as a "
            "recipe with backend='executorch' does"
        )
    source = node.all_input_nodes[0]
    if "dequantize" in name:
        return None if source.op == "get_attr" or family(source) == "quant" else f"{name} of codes that are computed"
    if name != "quantized_decomposed.quantize_per_tensor":
        return f"XNNPACK has no {name} of activations; give them one scale"
    if any("dequantize" not in op_name(user) for user in node.users):
        return (
            f"the codes of {name} are read by another op than a dequantize, and XNNPACK's codes are others, signed ones"
        )
    return None


def _blocks(node: fx.Node) -> str | None:
    """Why XNNPACK has no kernel for a weight in these blocks; None if it has."""
    low, high, _, block = node.args[3:7]
    if (low, high) != (-8, 7):
        return (
            "XNNPACK has weights in blocks of 4 bits alone; for 8 take quantize_dynamic, with a scale for each output"
        )
    if block % 32:  # type: ignore[operator]
        return f"XNNPACK has blocks of a multiple of 32 inputs, these have {block}; use block=32"
    layers = [user for each in node.users for user in (each.users if family(each) == "layout" else (each,))]
    if not all("dequantize_per_token" in op_name(_operand(layer, 0) or layer) for layer in layers):
        return "XNNPACK has weights in blocks beside inputs quantized by token alone; quantize for this backend"
    return None


def _token(node: fx.Node, name: str) -> str | None:
    """Why there is no form of an op that quantizes each token by its range; None as a part of a linear of stored codes."""
    if "dequantize" in name and not all(_has_codes(user) for user in node.users):
        return f"XNNPACK has {name} as a part of a linear with a quantized weight alone"
    return None


def _has_codes(layer: fx.Node) -> bool:
    weight = _operand(layer, 1)
    while weight is not None and family(weight) == "layout":
        weight = weight.all_input_nodes[0]
    return weight is not None and "dequantize_per_channel" in op_name(weight)


def _operand(layer: fx.Node, which: int) -> fx.Node | None:
    """The input, or the matrix, of a product; None of another op."""
    names = PRODUCT_OPERANDS.get(op_name(layer))
    return arguments(layer)[names[which]] if names else None


def _dtypes(node: fx.Node) -> set[torch.dtype]:
    values = (n.meta.get("val") for n in (node, *node.all_input_nodes))
    return {value.dtype for value in values if isinstance(value, torch.Tensor)}


def _has_kernel(op: torch._ops.OpOverload) -> bool:
    op = _AS_EXPORTED.get(str(op), op)
    return str(op) == "aten.size.default" or bool(_out_names(op) & _kernels())


_AS_EXPORTED = {"aten.native_batch_norm.default": torch.ops.aten._native_batch_norm_legit_no_training.default}
"""What an export has in place of an op that a trace of it shows."""


def _out_names(op: torch._ops.OpOverload) -> set[str]:
    """The names that the runtime may know a functional op by: it writes into an output that is given."""
    packet, _, overload = str(op).removeprefix(f"{op.namespace}.").partition(".")
    overloads = ("out",) if overload == "default" else ("out", f"{overload}_out", overload)
    names = {f"{op.namespace}::{name}.{o}" for name in (packet, f"{packet}_copy") for o in overloads}
    return names | _KNOWN_AS.get(str(op), set())


_KNOWN_AS = {
    "aten.max.dim": {"aten::max.dim_max"}, "aten.min.dim": {"aten::min.dim_min"}, "aten.max.default": {"aten::max.unary_out"},
    "aten.min.default": {"aten::min.unary_out"}, "aten.topk.default": {"aten::topk.values"},
    "aten.any.default": {"aten::any.all_out"}, "aten.mean.default": {"aten::mean.dtype_out"},
    "aten.sum.dim_IntList": {"aten::sum.IntList_out"}, "aten.div.Tensor_mode": {"aten::div.out_mode"},
    "aten._native_batch_norm_legit.no_stats": {"aten::_native_batch_norm_legit.no_stats_out"},
}  # fmt: skip
"""Ops whose variant with outputs is called otherwise."""


@functools.cache
def _kernels() -> frozenset[str]:
    return frozenset(library()._get_operator_names())


@functools.cache
def _decompositions() -> dict[Any, Any]:
    with quiet():
        from executorch.exir.tracer import _default_decomposition_table

        return dict(_default_decomposition_table())
