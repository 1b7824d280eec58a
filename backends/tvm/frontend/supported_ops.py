"""Which ops TVM's importer cannot convert, known before the build starts."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import fx

from fxopt.backend import refuses_training
from fxopt.backends.tvm.frontend.from_program import known_ops
from fxopt.ir.decompose import decomposed
from fxopt.ir.op_table import arguments, family, lookup
from fxopt.ir.printer import op_name
from fxopt.ir.recurrent import recurrent


def refuses(node: fx.Node) -> str | None:
    """Why the importer cannot convert a call; None if it can, directly or through torch's decomposition to core ops."""
    if node.target is torch.ops.higher_order.wrap_with_autocast:  # one that is on: others are inlined at capture
        return "TVM's importer gives products float32, whatever their operands are; capture the model without torch.autocast"
    if not isinstance(node.target, torch._ops.OpOverload) or family(node) in ("check", "size"):
        return None
    if (row := lookup(node)) is not None and row.family == "recurrent" and recurrent(node).drops:
        return f"{op_name(node)} drops at random between its layers; capture the model after model.eval()"
    known, name = _known(), op_name(node)
    if reason := _not_as_called(node, name):
        return reason
    if _spelled(node.target) in known:
        return None
    way_out = "replace it by other ops before the build"
    try:
        missing = [op for op in decomposed(node, _decompositions()) if _spelled(op) not in known]
    except Exception as error:
        return f"TVM has no form of {name}, and decomposing it fails: {type(error).__name__}: {error}; {way_out}"
    if node.target in missing:
        return f"TVM has no form of {name}, and torch no decomposition; {way_out}"
    if missing:
        return f"TVM has no form of {name}, and it decomposes into {', '.join(map(str, missing))}, without one too; {way_out}"
    return None


def _not_as_called(node: fx.Node, name: str) -> str | None:
    """Why an op that the importer knows cannot be converted with these arguments."""
    if name in ("aten.index.Tensor", "aten.index_put", "aten.index_put_"):
        indices = (i for i in arguments(node)["indices"] if i is not None)
        if any(i.meta["val"].dtype == torch.bool for i in indices):
            return (
                f"{name} by a mask has as many results as the mask has hits, known only when it runs; use torch.where"
            )
    if name == "quantized_decomposed.dequantize_per_channel" and not _is_weight(node.args[0]):
        return "activations with a scale for each channel have no kernels; quantize them with one scale"
    if reason := refuses_training(node):
        return reason
    if name in ("aten.pow.Tensor_Tensor", "aten.pow.Scalar") and not node.meta["val"].is_floating_point():
        return f"TVM has {name} of floats alone; cast to float32 before it, or use the backend onnx"
    if name == "aten.max_pool2d_with_indices" and any(user.args[1] == 1 and user.users for user in node.users):
        return "TVM's pools give no indices; take the maximum alone"
    if name == "aten.as_strided" and not node.meta["val"].is_contiguous():
        return "TVM has no strides; slice or permute instead"
    if name == "aten.conv_transpose3d.input":
        return "TVM has no transposed convolution over a volume; use the backend onnx"
    if name in _WRONG:
        return f"TVM converts {name} wrongly; {_WRONG[name]}"
    if name in ("aten.avg_pool1d", "aten.adaptive_avg_pool1d") and node.args[0].meta["val"].dim() == 2:  # type: ignore[union-attr]
        return f"TVM has no {name} without a batch; unsqueeze the input"
    return None


def _is_weight(value: object) -> bool:
    """Whether it is stored, or computed from stored tensors alone."""
    return isinstance(value, fx.Node) and (
        value.op == "get_attr" or (value.op == "call_function" and all(map(_is_weight, value.all_input_nodes)))
    )


_WRONG = {
    "aten._upsample_bilinear2d_aa.vec": "resize without antialias=True, or use the backend onnx",
    "aten._upsample_bilinear2d_aa": "resize without antialias=True, or use the backend onnx",
    "aten.heaviside": "use torch.where(x == 0, values, (x > 0).to(x.dtype)), or the backend onnx",
}
"""Ops that the importer converts wrongly, and what to do."""


def _spelled(op: torch._ops.OpOverload) -> str:
    return str(op.__name__)


@functools.cache
def _known() -> frozenset[str]:
    return known_ops()


@functools.cache
def _decompositions() -> dict[torch._ops.OperatorBase, Callable[..., object]]:
    return dict(torch.export.default_decompositions())
