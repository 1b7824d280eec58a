"""What the rewriting asks of Relax expressions and their sizes."""

from __future__ import annotations

from typing import Any


def is_var(expr: Any) -> bool:
    """Whether an expression is a variable."""
    from tvm import relax

    return isinstance(expr, relax.Var)


def is_int(size: Any) -> bool:
    """Whether a size is known when the program is built."""
    from tvm import tirx

    return isinstance(size, (int, tirx.IntImm))


def ints(values: Any) -> Any:
    """Attributes of an op as a tuple of Python's numbers."""
    return tuple(int(value) for value in values)


def axes_of(call: Any) -> list[int]:
    """The axes of a permutation, which are all in reverse where none are given."""
    return [*range(len(call.args[0].ty.shape))][::-1] if call.attrs.axes is None else list(ints(call.attrs.axes))


def swaps_last(axes: list[int]) -> bool:
    """Whether a permutation swaps the last two dims and no others."""
    rank = len(axes)
    return axes == [*range(rank - 2), rank - 1, rank - 2]


def is_float(*values: Any) -> bool:
    """Whether all expressions are float32."""
    return all(str(value.ty.dtype.dtype) == "float32" for value in values)


def product_of(sizes: list[Any]) -> Any:
    """Sizes multiplied, known or not."""
    whole = sizes[0]
    for size in sizes[1:]:
        whole = whole * size
    return whole


def usual(rows: Any) -> int:
    """Rows to choose a tile by: of a batch a few, as one row alone leaves registers idle at no gain."""
    from tvm import tirx

    if is_int(rows):
        return int(rows)
    if isinstance(rows, tirx.Mul) and (is_int(rows.a) or is_int(rows.b)):
        return int(rows.a if is_int(rows.a) else rows.b)
    return 4


def name_of(call: Any) -> str:
    """The op of a call; of a call of a function outside, that function's name."""
    from tvm import relax

    name = str(call.op.name)
    if name == "relax.call_pure_packed" and isinstance(call.args[0], relax.ExternFunc):
        return str(call.args[0].global_symbol)
    return name


def number_of(expr: Any) -> Any:
    """The value of a constant of one element, or of a plain number."""
    value = getattr(expr, "value", expr)
    if hasattr(value, "numpy"):
        return value.numpy().item()
    return getattr(value, "value", value)


def channels_of(shape: Any) -> int:
    """The size of the last dim; -1 where it is known only when the model runs."""
    return int(shape[-1]) if len(shape) and is_int(shape[-1]) else -1


def same(one: Any, other: Any) -> bool:
    """Whether two shapes are equal."""
    from tvm_ffi import structural_equal

    one, other = list(one), list(other)
    return len(one) == len(other) and all(
        int(a) == int(b) if is_int(a) and is_int(b) else structural_equal(a, b) for a, b in zip(one, other, strict=True)
    )
