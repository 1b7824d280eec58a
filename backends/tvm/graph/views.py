"""Moved values, as views: an element is read from its source, and gathered only when a layout is materialized."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fxopt.backends.tvm.graph.relax_utils import is_float, is_int, is_var
from fxopt.backends.tvm.graph.value_layouts import Index, View

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Expr, Scalar, Shape, Size, TensorExpr, Var


def move(
    lowering: Lowering, var: Var, source: Expr, index: Index | None, *, whole: bool = True, contiguous: bool = False
) -> bool:
    """Define a variable as a view of ``source``, or of its source if that is a view too. False where it cannot be."""
    if index is None or not is_var(source) or not is_float(var):
        return False
    before = lowering.value(source).view
    if before is None:
        before = View(source, lambda at: at, blocked=lowering.is_blocked(source))
    view = replace(
        before,
        index=lambda at: before.index(index(at)),
        whole=before.whole and whole,
        contiguous=before.contiguous and contiguous,
    )
    define_view(lowering, var, view)
    return True


def define_view(lowering: Lowering, var: Var, view: View) -> None:
    """Define a variable as a view."""
    value = lowering.value(var)
    value.view = view
    value.make_plain = lambda: _plain(lowering, var, view)
    value.make_blocked = lambda: _blocked(lowering, var, view)


def _plain(lowering: Lowering, var: Var, view: View) -> Expr:
    from tvm import relax

    shape = list(var.ty.shape)
    if view.contiguous and not view.blocked:
        return lowering.emit(relax.op.reshape(lowering.plain(view.source), shape))
    return _gather(lowering, view, shape, lambda at: at, "moved")


def _blocked(lowering: Lowering, var: Var, view: View) -> Expr:
    """From NCHWc to NCHWc."""
    lanes, (n, channels, high, wide) = lowering.lanes, var.ty.shape
    shape = [n, -(-int(channels) // lanes), high, wide, lanes]

    def element(at: list[Scalar]) -> list[Scalar]:
        from tvm import tirx

        n, block, y, x, lane = at
        channel = block * lanes + lane
        return [n, tirx.min(channel, int(channels) - 1) if int(channels) % lanes else channel, y, x]

    return _gather(lowering, view, shape, element, "moved_vectors")


def _gather(lowering: Lowering, view: View, shape: Shape, to_plain: Index, name: str) -> Expr:
    """All elements of a layout of ``shape``, whose positions ``to_plain`` maps to those of the plain layout."""
    lanes = lowering.lanes

    def gather(data: TensorExpr) -> TensorExpr:
        from tvm import te

        def element(*at: Scalar) -> Scalar:
            index = view.index(to_plain(list(at)))
            if not view.blocked:
                return data[tuple(index)]
            n, channel, y, x = index
            return data[n, channel // lanes, y, x, channel % lanes]

        return te.compute(shape, element)

    source = lowering.blocked(view.source) if view.blocked else lowering.plain(view.source)
    return lowering.emit_te(gather, source, name=name)


def reshape_index(old: list[Size], new: list[Size]) -> Index | None:
    """The index map from the shape ``new`` to ``old``; None if differing sizes other than the first are dynamic."""
    from tvm import tirx

    before = _common_prefix(old, new)
    after = _common_prefix(old[before:][::-1], new[before:][::-1])
    middles = old[before : len(old) - after], new[before : len(new) - after]
    if not all(is_int(size) for middle in middles for size in middle[1:]):
        return None

    def index(at: list[Scalar]) -> list[Scalar]:
        linear: Scalar | int = 0
        for i, size in zip(at[before:], middles[1], strict=False):
            linear = linear * size + i
        found: list[Scalar] = []
        for size in middles[0][:0:-1]:
            found.insert(0, tirx.floormod(linear, size))
            linear = tirx.floordiv(linear, size)
        return [*at[:before], *([linear] if middles[0] else []), *found, *at[len(new) - after :]]

    return index


def _common_prefix(old: list[Size], new: list[Size]) -> int:
    """How many sizes are equal before the first that differ."""
    from tvm_ffi import structural_equal

    pairs = zip(old, new, strict=False)
    return next((i for i, pair in enumerate(pairs) if not structural_equal(*pair)), min(len(old), len(new)))
