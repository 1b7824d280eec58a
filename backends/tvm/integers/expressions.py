"""Small questions about Relax expressions and shapes."""

from __future__ import annotations

from typing import Any

from fxopt.backends.tvm.sizes import is_int


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
