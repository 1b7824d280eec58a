"""Which ops the ONNX exporter cannot write, or the runtime has no kernel for, known before the export starts."""

from __future__ import annotations

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.backend import refuses_training
from fxopt.backends.onnx.quiet import quiet
from fxopt.backends.onnx.recurrent_kernels import SEQUENCES, cannot_lower
from fxopt.backends.onnx.registry import decompositions_of, registry_of
from fxopt.ir.alias_analysis import written
from fxopt.ir.decompose import decomposed
from fxopt.ir.op_table import Trait, arguments, family, has
from fxopt.ir.printer import op_name


def refuses(node: fx.Node, opset: int) -> str | None:
    """Why the exporter has no ONNX form of a call in a version of the ONNX operators; None if it has, maybe in other ops."""
    if not isinstance(node.target, torch._ops.OpOverload) or family(node) in ("check", "size"):
        return None
    name = op_name(node)
    if family(node) == "quant":
        return _scale_unknown(node, name)
    if reason := cannot_lower(node) or _not_as_called(node, name):
        return reason
    if name in SEQUENCES:
        return None
    if arguments(node).get("divisor_override") is not None:
        return f"the exporter leaves out the divisor_override of {name}; divide in an op of its own"
    with quiet():
        registry, decompositions = registry_of(opset), decompositions_of(opset)
    if registry.is_registered(node.target):
        return None
    way_out = "replace it by other ops before the build"
    if written(node):
        way_out = (
            "it writes where others see it: write into a clone of the input, and return that, or use the backend tvm"
        )
    try:
        missing = [op for op in decomposed(node, decompositions) if not registry.is_registered(op)]
    except Exception as error:
        return f"{name} has no ONNX form, and decomposing it fails: {type(error).__name__}: {error}; {way_out}"
    if node.target in missing:
        return f"{name} has no ONNX form and no decomposition; {way_out}"
    if missing:
        return (
            f"{name} has no ONNX form, and decomposes into {', '.join(map(str, missing))}, without one too; {way_out}"
        )
    return None


def _scale_unknown(node: fx.Node, name: str) -> str | None:
    """Why quantization by a scale that is a value of the graph cannot be had, but for that of :mod:`dynamic_kernels`."""
    if not name.endswith((".tensor", ".tensor2", "per_token")) or "choose_qparams" in name:
        return None
    scale = node.args[1]
    chosen = scale.args[0] if isinstance(scale, fx.Node) and scale.op == "call_function" and scale.args else None
    if isinstance(chosen, fx.Node) and op_name(chosen) == "quantized_decomposed.choose_qparams.tensor":
        return None
    return f"{name} has no ONNX form where its scale is a tensor; quantize with numbers, or with quantize_dynamic"


def _not_as_called(node: fx.Node, name: str) -> str | None:
    """Why an op that the exporter has a form of cannot be had with these arguments: it would fail, or give other numbers."""
    call = arguments(node)
    if reason := refuses_training(node):
        return reason
    if name == "aten.scatter_reduce.two" and call["reduce"] == "mean":
        return "the exporter writes a scattered mean as a sum; scatter sums and counts, and divide"
    if name == "aten.scaled_dot_product_attention":
        ranks = {call[key].meta["val"].dim() for key in ("query", "key", "value")}
        if len(ranks) > 1:
            return "the exporter wants query, key and value of equally many dims; expand them before the call"
    return None


_MOVES = ("layout", "copy", "pick", "join", "size", "check")
_SAME = (Trait.CAST, Trait.SAME_VALUE, Trait.DROPOUT)


def without_kernel(node: fx.Node, opset: int) -> str | None:
    """Why ONNX Runtime has no kernel on a processor for the dtypes of a call; None if it has.

    bfloat16 is moved and cast there, and nothing else. Q/DQ of 16 bits came with opset 21.
    """
    if node.target is torch.ops.higher_order.wrap_with_autocast and torch.bfloat16 in node.args:
        return (
            "ONNX Runtime computes nothing in bfloat16 on a processor; capture the model without torch.autocast, "
            "or use the backend openvino"
        )
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    if torch.bfloat16 in _dtypes(node) and family(node) not in _MOVES and not any(has(node, same) for same in _SAME):
        return (
            f"ONNX Runtime has no kernel of {op_name(node)} for bfloat16 on a processor; use "
            "float16 or float32, or the backend openvino"
        )
    if has_16_bits(node) and opset < 21:
        return f"codes of 16 bits need opset 21, this is {opset}: onnx(opset=21)"
    return None


def has_16_bits(node: fx.Node) -> bool:
    """Whether a node quantizes to 16 bits, or dequantizes from there."""
    return family(node) == "quant" and not _dtypes(node).isdisjoint((torch.uint16, torch.int16))


def _dtypes(node: fx.Node) -> set[torch.dtype]:
    """Dtypes of all that a node reads and gives."""
    values = pytree.tree_leaves([n.meta.get("val") for n in (node, *node.all_input_nodes)])
    return {value.dtype for value in values if isinstance(value, torch.Tensor)}
