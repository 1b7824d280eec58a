"""Converters of ops that TVM's importer lacks, or converts wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import fx

from fxopt.backends.tvm.frontend.indexing import index, index_put, scatter
from fxopt.backends.tvm.frontend.provenance import DEQUANTIZE, QUANTIZE
from fxopt.backends.tvm.frontend.recurrent.layers import KINDS, recurrent_layers
from fxopt.ir.op_table import arguments

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import ExportedProgramImporter, Expr

Conversion: TypeAlias = "Callable[[fx.Node], Expr | list[Expr]]"


def conversions(importer: ExportedProgramImporter) -> dict[str, Conversion]:
    """By the importer's name of an op."""
    from tvm import relax

    return {
        "amax.default": lambda node: _extreme(importer, node, relax.op.max),
        "amin.default": lambda node: _extreme(importer, node, relax.op.min),
        "select.int": lambda node: _select(importer, node),
        "any.default": lambda node: _any(importer, node),
        "any.dim": lambda node: _any(importer, node),
        "any.dims": lambda node: _any(importer, node),
        "grid_sampler_2d.default": lambda node: _grid_sampler(importer, node),
        "native_group_norm.default": lambda node: _group_norm(importer, node),
        "instance_norm.default": lambda node: _instance_norm(importer, node),
        "elu.default": lambda node: _elu(importer, node),
        "index.Tensor": lambda node: index(importer, node),
        "index_put.default": lambda node: index_put(importer, node),
        "scatter_add.default": lambda node: scatter(importer, node, "add"),
        "quantize_per_tensor.default": lambda node: _quantize(importer, node),
        "dequantize_per_tensor.default": lambda node: _dequantize(importer, node, None),
        "dequantize_per_channel.default": lambda node: _dequantize(importer, node, int(node.args[3])),
        **{f"{kind}.input": lambda node: recurrent_layers(importer, node) for kind in KINDS},
    }


def _extreme(importer: ExportedProgramImporter, node: fx.Node, reduce: Callable[..., Expr]) -> Expr:
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", ())
    keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    return importer.block_builder.emit(reduce(importer.env[node.args[0]], list(dims) or None, bool(keep)))  # type: ignore[arg-type]


def _any(importer: ExportedProgramImporter, node: fx.Node) -> Expr:
    """As the maximum of booleans as 0 and 1: the importer's own is the maximum of the values."""
    from tvm import relax

    emit, call = importer.block_builder.emit, arguments(node)
    x, dims = importer.env[call["self"]], call.get("dim")
    if x.ty.dtype != "bool":
        x = emit(relax.op.not_equal(x, relax.const(0, x.ty.dtype)))
    hits = emit(relax.op.astype(x, "int8"))
    found = emit(relax.op.max(hits, [dims] if isinstance(dims, int) else dims or None, bool(call.get("keepdim"))))
    return emit(relax.op.astype(found, "bool"))


def _grid_sampler(importer: ExportedProgramImporter, node: fx.Node) -> Expr:
    """With the grid [N,2,H,W] of TVM's kernel; torch's is [N,H,W,2]."""
    from tvm import relax

    emit, call = importer.block_builder.emit, arguments(node)
    grid = emit(relax.op.permute_dims(importer.env[call["grid"]], [0, 3, 1, 2]))
    how = relax.op.image.grid_sample(
        importer.env[call["input"]], grid,
        method=("bilinear", "nearest", "bicubic")[call["interpolation_mode"]], layout="NCHW",
        padding_mode=("zeros", "border", "reflection")[call["padding_mode"]], align_corners=call["align_corners"],
    )  # fmt: skip
    return emit(how)


def _instance_norm(importer: ExportedProgramImporter, node: fx.Node) -> Expr:
    """A group norm of one channel a group: torch merges a dynamic batch into the channels instead. Or by stored statistics."""
    from tvm import relax

    emit, call = importer.block_builder.emit, arguments(node)
    x, epsilon = importer.env[call["input"]], float(call["eps"])
    if call["use_input_stats"]:
        return _grouped(importer, node, int(x.ty.shape[1]), epsilon)

    def by_channel(name: str) -> Expr:
        shape = [1, int(x.ty.shape[1]), *[1] * (len(x.ty.shape) - 2)]
        return emit(relax.op.reshape(importer.env[call[name]], shape))

    deviation = emit(relax.op.sqrt(emit(relax.op.add(by_channel("running_var"), relax.const(epsilon, x.ty.dtype)))))
    y = emit(relax.op.divide(emit(relax.op.subtract(x, by_channel("running_mean"))), deviation))
    if isinstance(call["weight"], fx.Node):
        y = emit(relax.op.multiply(y, by_channel("weight")))
    return emit(relax.op.add(y, by_channel("bias"))) if isinstance(call["bias"], fx.Node) else y


def _group_norm(importer: ExportedProgramImporter, node: fx.Node) -> list[Expr]:
    """The first of the three results."""
    call = arguments(node)
    return [_grouped(importer, node, int(call["group"]), float(call["eps"]))]


def _grouped(importer: ExportedProgramImporter, node: fx.Node, groups: int, epsilon: float) -> Expr:
    """With ones and zeros for a missing weight or bias, which TVM's kernel requires."""
    import numpy as np
    from tvm import relax

    emit, call = importer.block_builder.emit, arguments(node)
    x = importer.env[call["input"]]
    full = [relax.const(np.full(int(x.ty.shape[1]), value, str(x.ty.dtype)), x.ty.dtype) for value in (1, 0)]
    weight, bias = (
        importer.env[call[name]] if isinstance(call[name], fx.Node) else instead
        for name, instead in zip(("weight", "bias"), full, strict=True)
    )
    axes = list(range(2, len(x.ty.shape)))
    return emit(relax.op.nn.group_norm(x, weight, bias, groups, 1, axes, epsilon))


def _elu(importer: ExportedProgramImporter, node: fx.Node) -> Expr:
    """scale·x above 0 and scale·alpha·(exp(input_scale·x) − 1) below: the importer knows alpha alone, celu and selu need more."""
    from tvm import relax

    x, emit = importer.env[node.args[0]], importer.block_builder.emit

    def const(value: float) -> Expr:
        return relax.const(value, x.ty.dtype)

    call = arguments(node)
    alpha, scale, inner = (float(call[name]) for name in ("alpha", "scale", "input_scale"))
    below = emit(relax.op.subtract(emit(relax.op.exp(emit(relax.op.multiply(x, const(inner))))), const(1.0)))
    below = emit(relax.op.multiply(below, const(alpha)))
    chosen = emit(relax.op.where(emit(relax.op.greater(x, const(0.0))), x, below))
    return emit(relax.op.multiply(chosen, const(scale)))


def _select(importer: ExportedProgramImporter, node: fx.Node) -> Expr:
    """As a slice: the importer's own reads before the tensor for an index from the end."""
    from tvm import relax

    x, emit = importer.env[node.args[0]], importer.block_builder.emit
    shape = list(x.ty.shape)
    axis = int(node.args[1]) % len(shape)  # type: ignore[arg-type]
    index = importer.env[node.args[2]] if isinstance(node.args[2], fx.Node) else int(node.args[2])  # type: ignore[arg-type]
    start = index if not isinstance(index, int) or index >= 0 else shape[axis] + index
    return emit(relax.op.squeeze(emit(relax.op.strided_slice(x, [axis], [start], [start + 1])), [axis]))


def _quantize(importer: ExportedProgramImporter, node: fx.Node) -> Expr:
    """As a call, which is lowered once the readers of the quantized value are known: see ``graph.int8.lower_quantize``."""
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
