"""The forms that a value has: the usual one, vectors of channels, numbers; each made when it is first read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxopt.backends.tvm.graph.relax_utils import is_var
from fxopt.backends.tvm.ops.layout_transforms import to_blocked, to_plain
from fxopt.backends.tvm.tiling.task import Choices

_FUSES = {"op_pattern": 4}
"""A kernel that takes the element-wise ops behind it into itself."""


class Values:
    """What is known of the values of a module that is written anew by ``builder``.

    ``places`` are the program's nodes as text, by the stem of the names of what they became.
    """

    def __init__(self, choices: Choices, places: dict[str, str]) -> None:
        from tvm import relax

        self.places = places
        self.choices, self.lanes = choices, choices.processor.lanes
        self.builder = relax.BlockBuilder()
        self._plain: dict[Any, Any] = {}
        self._blocked: dict[Any, Any] = {}
        self._numbers: dict[Any, Any] = {}

    def plain_codes(self, expr: Any) -> Any:
        """The usual form of a value that is known as codes only; None for others."""
        del expr

    def numbers(self, expr: Any) -> Any:
        """The array of a constant; None for what is computed when the model runs."""
        from tvm.ir import GenericConst

        if isinstance(expr, GenericConst) and hasattr(expr.value, "numpy"):
            return expr.value.numpy()
        return self._numbers.get(expr) if is_var(expr) else None

    def set_numbers(self, var: Any, numbers: Any) -> None:
        """Note that a variable is constant."""
        self._numbers[var] = numbers

    def plain(self, expr: Any) -> Any:
        """An expression over the new module's values in the usual form."""
        from tvm import relax
        from tvm.ir import Call, Op

        if is_var(expr):
            if expr not in self._plain and (known := self.plain_codes(expr)) is not None:
                self._plain[expr] = known
            if expr in self._numbers and expr not in self._plain:
                self._plain[expr] = relax.const(self._numbers[expr], str(self._numbers[expr].dtype))
            if expr not in self._plain and expr in self._blocked:
                channels = expr.ty.shape[1]
                self._plain[expr] = self.emit(to_plain(channels, self.lanes), self._blocked[expr], name="to_plain")
            return self._plain.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.plain(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.plain(expr.tuple_value), expr.index)
        if isinstance(expr, Call) and isinstance(expr.op, Op):
            return Call(expr.op, [self.plain(arg) for arg in expr.args], expr.attrs, expr.ty_args)
        return expr

    def blocked(self, expr: Any) -> Any:
        """A value of rank 4 in vectors of channels."""
        if expr not in self._blocked:
            channels = int(expr.ty.shape[1])
            self._blocked[expr] = self.emit(to_blocked(channels, self.lanes), self.plain(expr), name="to_blocked")
        return self._blocked[expr]

    def emit(self, function: Callable[..., Any], *args: Any, name: str, fuses: bool = False) -> Any:
        """Bind what a function makes of tensor expressions; ``fuses``: what reads it may become a part of the kernel."""
        attributes = {"primfunc_attrs": _FUSES} if fuses else {}
        return self.builder.emit(self.builder.call_te(function, *args, primfunc_name_hint=name, **attributes))
