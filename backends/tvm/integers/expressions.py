"""Small questions about Relax expressions and shapes."""

from __future__ import annotations

from typing import Any


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


def is_var(expr: Any) -> bool:
    """Whether an expression is a variable."""
    from tvm import relax

    return isinstance(expr, relax.Var)


def is_int(size: Any) -> bool:
    """Whether a size is known."""
    from tvm import tirx

    return isinstance(size, (int, tirx.IntImm))


def ints(values: Any) -> Any:
    """Numbers as Python's."""
    return tuple(int(value) for value in values)


def usual_rows(rows: Any) -> int:
    """Rows to choose a tile by where they are known only when the model runs."""
    from fxopt.backends.tvm.layout import _usual

    return _usual(rows)
