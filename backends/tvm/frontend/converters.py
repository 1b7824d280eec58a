"""Converters of ops that TVM's importer lacks, or converts wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import fx

from fxopt.backends.tvm.frontend.provenance import DEQUANTIZE, QUANTIZE

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import ExportedProgramImporter, Expr

Conversion: TypeAlias = "Callable[[fx.Node], Expr]"


def conversions(importer: ExportedProgramImporter) -> dict[str, Conversion]:
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


def _extreme(importer: ExportedProgramImporter, node: fx.Node, reduce: Callable[..., Expr]) -> Expr:
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
    keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    return importer.block_builder.emit(reduce(importer.env[node.args[0]], list(dims) or None, bool(keep)))  # type: ignore[arg-type]


def _select(importer: ExportedProgramImporter, node: fx.Node) -> Expr:
    """As a slice: the importer's own gives whatever lies before the tensor for an index from the end."""
    from tvm import relax

    x, emit = importer.env[node.args[0]], importer.block_builder.emit
    shape = list(x.ty.shape)
    axis = int(node.args[1]) % len(shape)  # type: ignore[arg-type]
    index = importer.env[node.args[2]] if isinstance(node.args[2], fx.Node) else int(node.args[2])  # type: ignore[arg-type]
    start = index if not isinstance(index, int) or index >= 0 else shape[axis] + index
    return emit(relax.op.squeeze(emit(relax.op.strided_slice(x, [axis], [start], [start + 1])), [axis]))


def _quantize(importer: ExportedProgramImporter, node: fx.Node) -> Expr:
    """As a call, which is lowered once it is known what reads the quantized value: see ``graph.int8.lower_quantize``."""
    from tvm import relax

    arguments: tuple[Any, ...] = node.args
    x, scale, zero, low, high, dtype = arguments
    value = importer.env[x]
    given = importer._convert_data_type(dtype, importer.env)
    numbers = [relax.const(float(scale), "float32"), *_int64(zero, low, high)]
    ty = relax.TensorType(value.ty.shape, given)
    return importer.block_builder.emit(relax.op.call_pure_packed(QUANTIZE, value, *numbers, ty_args=ty))


def _dequantize(importer: ExportedProgramImporter, node: fx.Node, axis: int | None) -> Expr:
    """As a call too: scale and zero point are scalars, or arrays along ``axis``."""
    from tvm import relax

    arguments: tuple[Any, ...] = node.args
    quantized, (scale, zero) = importer.env[arguments[0]], arguments[1:3]
    low, high = arguments[3:5] if axis is None else arguments[4:6]
    if axis is None:
        numbers = [relax.const(float(scale), "float32"), *_int64(zero)]
    else:
        numbers = [importer.env[scale], importer.env[zero]]
    ty = relax.TensorType(quantized.ty.shape, "float32")
    call = relax.op.call_pure_packed(DEQUANTIZE, quantized, *numbers, *_int64(axis or 0, low, high), ty_args=ty)
    return importer.block_builder.emit(call)


def _int64(*values: float) -> list[Expr]:
    from tvm import relax

    return [relax.const(int(value), "int64") for value in values]
