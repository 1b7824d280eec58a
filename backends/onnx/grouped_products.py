"""The products of a mixture of experts, rows sorted by expert, as one product an expert."""

from __future__ import annotations

from typing import Any

import torch


def grouped_products() -> list[torch._ops.OpOverload]:
    """The ops that are defined at present, each of ``(rows [S, in], weights [experts, in, out], ends [experts])``."""
    theirs = torch.ops.transformers  # whose op is defined as its integrations are imported
    return [theirs.grouped_mm_fallback.default] if hasattr(theirs, "grouped_mm_fallback") else []


def grouped_product(rows: Any, weights: Any, ends: Any) -> Any:
    """Write ``rows[ends[e-1]:ends[e]] @ weights[e]`` for each expert, and the results one below another, [S, out].

    ONNX slices at places that are computed, so that a row is multiplied once, and no weights are gathered for it.
    """
    from onnx import TensorProto
    from onnxscript import opset18

    op: Any = opset18  # whose types are those of one dtype at a time
    ends = op.Cast(ends, to=TensorProto.INT64)
    first = op.Constant(value_ints=[0])
    start, parts = first, []
    for expert in range(weights.shape[0]):
        index = op.Constant(value_ints=[expert])
        end = op.Gather(ends, index, axis=0)
        weight = op.Squeeze(op.Gather(weights, index, axis=0), first)
        parts.append(op.MatMul(op.Slice(rows, start, end, first), weight))
        start = end
    return op.Concat(*parts, axis=0)
