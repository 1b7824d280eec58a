"""The environment that lowering rules work in: the layouts of each value, the module being built, and the chosen tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fxopt.backends.tvm.frontend.provenance import name_for
from fxopt.backends.tvm.graph.relax_utils import is_var
from fxopt.backends.tvm.graph.value_layouts import Value
from fxopt.backends.tvm.machine.dot_instructions import instruction_of
from fxopt.backends.tvm.ops.layout_transforms import from_blocked, to_blocked
from fxopt.backends.tvm.tiling.int8_geometry import KernelKind
from fxopt.backends.tvm.tiling.task import Choices

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Array, Expr, TensorFunction, Var

_FUSES = {"op_pattern": 4}
"""TVM's kOutEWiseFusable: a kernel that takes the element-wise ops after it into itself."""


class Lowering:
    """The lowering of one ``main``, binding by binding, into the module of ``builder``.

    ``provenance`` holds the program's nodes as text, by the stem of the names of their variables. ``integer_contractions``
    counts convolutions and products in integers by instruction; ``float_contractions`` says of each of the others why it is not.
    """

    def __init__(self, choices: Choices, provenance: dict[str, str]) -> None:
        from tvm import relax

        self.choices, self.provenance = choices, provenance
        self.lanes = choices.processor.lanes
        self.instruction = instruction_of(choices.processor)
        self.builder = relax.BlockBuilder()
        self.integer_contractions = Counter[KernelKind]()
        self.float_contractions: list[str] = []
        self.stem = ""
        """Name of the value that is being lowered, after which the variables for it are named."""
        self._values: dict[Expr, Value] = {}

    def value(self, expr: Expr) -> Value:
        """The record of a value, to read and to write."""
        return self._values.setdefault(expr, Value())

    def values(self) -> Iterable[Value]:
        """All values that have a record."""
        return self._values.values()

    def is_blocked(self, expr: Expr) -> bool:
        """Whether a value is in NCHWc already."""
        return self.value(expr).blocked is not None

    def constant(self, expr: Expr) -> Array | None:
        """The array of a constant; None for what is dynamic."""
        from tvm.ir import GenericConst

        if isinstance(expr, GenericConst) and hasattr(expr.value, "numpy"):
            return expr.value.numpy()
        return self.value(expr).constant if is_var(expr) else None

    def plain(self, expr: Expr) -> Expr:
        """An expression over the new module's values in plain layout."""
        from tvm import relax
        from tvm.ir import Call, Op

        if is_var(expr):
            return self._plain_variable(expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.plain(field) for field in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.plain(expr.tuple_value), expr.index)
        if isinstance(expr, Call) and isinstance(expr.op, Op):
            return Call(expr.op, [self.plain(arg) for arg in expr.args], expr.attrs, expr.ty_args)
        return expr

    def _plain_variable(self, var: Var) -> Expr:
        from tvm import relax

        value = self.value(var)
        if value.plain is None and value.make_plain is not None:
            value.plain = value.make_plain()
        elif value.plain is None and value.constant is not None:
            value.plain = relax.const(value.constant, str(value.constant.dtype))
        elif value.plain is None and value.blocked is not None:
            value.plain = self.emit_te(from_blocked(var.ty.shape[1], self.lanes), value.blocked, name="to_plain")
        return var if value.plain is None else value.plain

    def blocked(self, expr: Expr) -> Expr:
        """A value of rank 4 in NCHWc."""
        value = self.value(expr)
        if value.blocked is None and value.make_blocked is not None:
            value.blocked = value.make_blocked()
        elif value.blocked is None:
            transform = to_blocked(int(expr.ty.shape[1]), self.lanes)
            value.blocked = self.emit_te(transform, self.plain(expr), name="to_blocked")
        return value.blocked

    def emit(self, expr: Expr) -> Var:
        """Bind an expression."""
        return self.builder.emit(expr, self._name())

    def emit_te(self, function: TensorFunction, *args: Expr, name: str, fuses: bool = False) -> Var:
        """Bind the result of a function of tensor expressions; ``fuses``: element-wise readers may be fused into the kernel."""
        attributes = {"primfunc_attrs": _FUSES} if fuses else {}
        call = self.builder.call_te(function, *args, primfunc_name_hint=name, **attributes)
        return self.builder.emit(call, self._name())

    def _name(self) -> str:
        return name_for(self.stem) if self.stem else ""
