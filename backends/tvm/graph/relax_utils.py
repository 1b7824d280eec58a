"""Queries of the lowering on Relax expressions and their sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Call, Expr, Size


def is_var(expr: object) -> bool:
    """Whether an expression is a variable."""
    from tvm import relax

    return isinstance(expr, relax.Var)


def is_int(size: object) -> bool:
    """Whether a size is static."""
    from tvm import tirx

    return isinstance(size, (int, tirx.IntImm))


def ints(values: Iterable[Size]) -> tuple[Any, ...]:
    """Attributes of an op as Python integers; how many depends on the op, so the type does not say."""
    return tuple(int(value) for value in values)


def axes_of(call: Call) -> list[int]:
    """The axes of a permutation, which are all in reverse where none are given."""
    return [*range(len(call.args[0].ty.shape))][::-1] if call.attrs.axes is None else list(ints(call.attrs.axes))


def swaps_last(axes: list[int]) -> bool:
    """Whether a permutation swaps the last two dims and no others."""
    rank = len(axes)
    return axes == [*range(rank - 2), rank - 1, rank - 2]


def is_float(*values: Expr) -> bool:
    """Whether all expressions are float32."""
    return all(str(value.ty.dtype.dtype) == "float32" for value in values)


def product(sizes: Sequence[Size]) -> Size:
    """Sizes multiplied, static or not."""
    whole = sizes[0]
    for size in sizes[1:]:
        whole = whole * size
    return whole


def size_hint(rows: Size) -> int:
    """Rows to choose a tile by: those of one example where the batch is dynamic, and 4 for another dynamic size.

    4 is a guess: a tile of one row leaves registers idle, and one of many rows computes most of them for nothing if there
    are few.
    """
    from tvm import tirx

    if is_int(rows):
        return int(rows)
    if isinstance(rows, tirx.Mul) and (is_int(rows.a) or is_int(rows.b)):
        return int(rows.a if is_int(rows.a) else rows.b)
    return 4


def op_name(call: Call) -> str:
    """The op of a call; for a call of an external function, that function's name."""
    from tvm import relax

    name = str(call.op.name)
    if name == "relax.call_pure_packed" and isinstance(call.args[0], relax.ExternFunc):
        return str(call.args[0].global_symbol)
    return name


def fields_of(expr: Expr) -> list[Expr]:
    """The items of a tuple; none for another expression."""
    from tvm import relax

    return list(expr.fields) if isinstance(expr, relax.Tuple) else []


def scalar_of(expr: Expr) -> float:
    """The value of a constant of one element, or of an immediate."""
    value = getattr(expr, "value", expr)
    if hasattr(value, "numpy"):
        return value.numpy().item()
    return getattr(value, "value", value)


def channels_of(shape: Sequence[Size]) -> int:
    """The size of the last dim; -1 where it is dynamic."""
    return int(shape[-1]) if len(shape) and is_int(shape[-1]) else -1


def same_shape(one: Iterable[Size], other: Iterable[Size]) -> bool:
    """Whether two shapes are equal."""
    from tvm_ffi import structural_equal

    one, other = list(one), list(other)
    return len(one) == len(other) and all(
        int(a) == int(b) if is_int(a) and is_int(b) else structural_equal(a, b) for a, b in zip(one, other, strict=True)
    )
