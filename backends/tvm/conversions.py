"""Conversions of ops that TVM's importer has none of, or a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import fx

Conversion = Callable[[fx.Node], Any]


def conversions(importer: Any) -> dict[str, Conversion]:
    """By the importer's name of an op."""
    from tvm import relax

    return {
        "amax.default": lambda node: _extreme(importer, node, relax.op.max),
        "amin.default": lambda node: _extreme(importer, node, relax.op.min),
        "select.int": lambda node: _select(importer, node),
        "quantize_per_tensor.default": lambda node: _quantize(importer, node),
        "dequantize_per_tensor.default": lambda node: _dequantize(importer, node, None),
        "dequantize_per_channel.default": lambda node: _dequantize(importer, node, int(node.args[3])),
    }


def _extreme(importer: Any, node: fx.Node, reduce: Callable[..., Any]) -> Any:
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
    keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    return importer.block_builder.emit(reduce(importer.env[node.args[0]], list(dims) or None, bool(keep)))  # type: ignore[arg-type]


def _select(importer: Any, node: fx.Node) -> Any:
    """As a slice: the importer's own gives whatever lies before the tensor for an index from the end."""
    from tvm import relax

    x, emit = importer.env[node.args[0]], importer.block_builder.emit
    shape = list(x.ty.shape)
    axis = int(node.args[1]) % len(shape)  # type: ignore[arg-type]
    index = importer.env[node.args[2]] if isinstance(node.args[2], fx.Node) else int(node.args[2])  # type: ignore[arg-type]
    start = index if not isinstance(index, int) or index >= 0 else shape[axis] + index
    return emit(relax.op.squeeze(emit(relax.op.strided_slice(x, [axis], [start], [start + 1])), [axis]))


def _quantize(importer: Any, node: fx.Node) -> Any:
    """``clamp(round(x / scale) + zero point)``, in float and then cast: the code that integer kernels would be given."""
    from tvm import relax

    x, scale, zero, low, high, dtype = node.args
    emit = importer.block_builder.emit
    scaled = emit(relax.op.multiply(importer.env[x], relax.const(1.0 / float(scale), "float32")))  # type: ignore[arg-type]
    shifted = emit(relax.op.add(emit(relax.op.round(scaled)), relax.const(float(zero), "float32")))  # type: ignore[arg-type]
    clamped = emit(relax.op.clip(shifted, float(low), float(high)))  # type: ignore[arg-type]
    return emit(relax.op.astype(clamped, importer._convert_data_type(dtype, importer.env)))


def _dequantize(importer: Any, node: fx.Node, axis: int | None) -> Any:
    """``(code - zero point) * scale`` in float."""
    from tvm import relax

    codes = importer.env[node.args[0]]
    emit = importer.block_builder.emit
    scale, zero = node.args[1], node.args[2]
    if axis is None:
        scale, zero = relax.const(float(scale), "float32"), relax.const(float(zero), "float32")  # type: ignore[arg-type]
    else:
        shape = [1] * len(codes.ty.shape)
        shape[axis] = -1
        scale, zero = (emit(relax.op.reshape(emit(relax.op.astype(importer.env[v], "float32")), _whole(shape, codes)))
                       for v in (scale, zero))  # fmt: skip
    shifted = emit(relax.op.subtract(emit(relax.op.astype(codes, "float32")), zero))
    return emit(relax.op.multiply(shifted, scale))


def _whole(shape: list[int], codes: Any) -> list[int]:
    return [int(size) if want == -1 else want for want, size in zip(shape, np.array(codes.ty.shape), strict=True)]
