"""Convolutions and matrix products, as kernels that compute in register tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.backends.tvm.graph.relax_utils import ints, is_float, is_int, is_var, product, size_hint
from fxopt.backends.tvm.graph.rules import rule
from fxopt.backends.tvm.ops import conv2d, matmul
from fxopt.backends.tvm.ops.conv2d import Convolution
from fxopt.backends.tvm.ops.matmul import Matmul

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Array, Call, Expr, TensorExpr, Var


@rule("relax.nn.conv2d")
def lower_conv2d(lowering: Lowering, var: Var, call: Call) -> bool:
    """A convolution with a constant weight, of an image whose size is static."""
    from tvm import relax

    data, attrs = call.args[0], call.attrs
    weight, sizes = lowering.constant(call.args[1]), data.ty.shape
    if weight is None or not all(is_int(size) for size in list(sizes)[1:]) or not is_float(data, var):
        return False
    if (attrs.data_layout, attrs.kernel_layout) != ("NCHW", "OIHW"):
        return False
    inputs, lanes = int(sizes[1]), lowering.lanes
    weight, groups = conv2d.merge_groups(weight, inputs, int(attrs.groups), lanes)
    conv = Convolution(
        inputs=inputs, outputs=len(weight), kernel=ints(weight.shape[2:]), stride=ints(attrs.strides),
        padding=ints(attrs.padding), dilation=ints(attrs.dilation), groups=groups,
        size=(int(sizes[2]), int(sizes[3])), lanes=lanes,
        blocked_input=groups > 1 or inputs >= lanes or lowering.is_blocked(data),
    )  # fmt: skip
    tile = lowering.choices(conv.task())
    source = lowering.blocked(data) if conv.blocked_input else lowering.plain(data)

    def convolve(data: TensorExpr, weight: TensorExpr) -> TensorExpr:
        return conv2d.compute(conv, tile, data, weight)

    packed = relax.const(conv2d.pack_weight(weight, conv, tile), "float32")
    lowering.value(var).blocked = lowering.emit_te(convolve, source, packed, name="conv2d", fuses=True)
    return True


@rule("relax.matmul")
def lower_matmul(lowering: Lowering, var: Var, call: Call) -> bool:
    """A product with a constant matrix, or one of two values with equal leading dims."""
    left, right = call.args
    if not is_float(left, right, var) or len(left.ty.shape) < 2 or not is_int(left.ty.shape[-1]):
        return False
    weight = lowering.constant(right)
    if weight is None and is_var(right):
        weight = lowering.value(right).broadcast_of
    if weight is None or weight.ndim != 2:
        return _batched_matmul(lowering, var, left, right)
    lowering.value(var).plain = _matmul_of_weight(lowering, left, weight)
    return True


def _batched_matmul(lowering: Lowering, var: Var, left: Expr, right: Expr) -> bool:
    from tvm_ffi import structural_equal

    lanes, columns = lowering.lanes, right.ty.shape[-1]
    depth, rows = int(left.ty.shape[-1]), size_hint(left.ty.shape[-2])
    leads = [list(side.ty.shape)[:-2] for side in (left, right)]
    if len(leads[0]) != len(leads[1]) or not leads[0] or not all(map(structural_equal, *leads)) or not is_int(columns):
        return False
    before_swap = lowering.value(right).transpose_of if is_var(right) else None
    tile = lowering.choices(Matmul(rows, depth, int(columns), lanes, size_hint(product(leads[0]))).task())

    def batched(left: TensorExpr, right: TensorExpr) -> TensorExpr:
        packed = matmul.pack(tile, lanes, right, transposed=before_swap is not None)
        return matmul.compute(tile, lanes, int(columns), left, packed)

    source = lowering.plain(right if before_swap is None else before_swap)
    lowering.value(var).plain = lowering.emit_te(batched, lowering.plain(left), source, name="matmul", fuses=True)
    return True


def _matmul_of_weight(lowering: Lowering, left: Expr, weight: Array) -> Expr:
    """A product with a packed weight, with all leading dims merged into rows."""
    from tvm import relax

    depth, columns = weight.shape
    lead, source = list(left.ty.shape)[:-1], lowering.plain(left)
    rows = product(lead)
    if len(lead) > 1:
        source = lowering.emit(relax.op.reshape(source, [rows, depth]))
    tile = lowering.choices(Matmul(size_hint(rows), depth, columns, lowering.lanes).task())

    def multiply(left: TensorExpr, packed: TensorExpr) -> TensorExpr:
        return matmul.compute(tile, lowering.lanes, columns, left, packed)

    packed = relax.const(matmul.pack_columns(weight, lowering.lanes, tile), "float32")
    made = lowering.emit_te(multiply, source, packed, name="matmul", fuses=True)
    return lowering.emit(relax.op.reshape(made, [*lead, columns])) if len(lead) > 1 else made
