"""Reshapes, permutations and slices, which are done when what comes of them is read, in one kernel.

A value that was only moved is known by the value it comes from, and by where each of its elements is there: several parts
of one that was turned, as queries, keys and values are, each read the first. What is done element by element on values in
vectors is done before the move, where it becomes a part of the kernel that multiplies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fxopt.backends.tvm.graph.lower_channelwise import Channelwise
from fxopt.backends.tvm.graph.relax_utils import axes_of, ints, is_float, is_int, is_var
from fxopt.backends.tvm.tiling.task import Choices

Index = Callable[[list[Any]], list[Any]]
"""The position in what was moved of a position in what comes of it."""


@dataclass(frozen=True)
class Moved:
    """Where the elements of a value are in ``source``, a variable."""

    source: Any
    index: Index
    vectors: bool
    """Whether the source is of rank 4 and in vectors."""
    whole: bool = True
    """Whether all elements of the source are there."""
    in_place: bool = True
    """Whether they lie in memory as in the source."""


class Moves(Channelwise):
    """Handlers of ops that move elements, and the forms of what they give."""

    def __init__(self, choices: Choices, places: dict[str, str]) -> None:
        super().__init__(choices, places)
        self._moved: dict[Any, Moved] = {}
        self._parts: dict[Any, tuple[Any, int, list[int]]] = {}

    def _reshape(self, var: Any, call: Any) -> bool:
        index = reshaped(list(call.args[0].ty.shape), list(var.ty.shape))
        return self._move(var, call.args[0], index, in_place=True)

    def _turn(self, var: Any, call: Any) -> bool:
        axes = axes_of(call)
        places = [axes.index(axis) for axis in range(len(axes))]
        return self._move(var, call.args[0], lambda at: [at[place] for place in places])

    def _slice(self, var: Any, call: Any) -> bool:
        axes, begins, _, *strides = (numbers_of(arg) for arg in call.args[1:])
        steps = strides[0] if strides else [1] * len(axes or ())
        if axes is None or begins is None or steps is None or min(*begins, *steps) < 0:
            return False
        of = {axis % len(var.ty.shape): (begin, step) for axis, begin, step in zip(axes, begins, steps, strict=True)}

        def index(at: list[Any]) -> list[Any]:
            return [of[axis][0] + i * of[axis][1] if axis in of else i for axis, i in enumerate(at)]

        return self._move(var, call.args[0], index, whole=False)

    def _split(self, var: Any, call: Any) -> bool:
        """Note where the parts begin, which are read one by one."""
        source, axis, parts = call.args[0], int(call.attrs.axis), call.attrs.indices_or_sections
        axis, size = axis % len(source.ty.shape), source.ty.shape[axis]
        if is_int(parts):
            if not is_int(size):
                return False
            parts = range(0, int(size), -(-int(size) // int(parts)))[1:]
        self._parts[var] = source, axis, [0, *ints(parts)]
        return False

    def _part(self, var: Any, item: Any) -> bool:
        """One part of what was split."""
        if item.tuple_value not in self._parts:
            return False
        source, axis, begins = self._parts[item.tuple_value]
        begin = begins[item.index]
        return self._move(
            var, source, lambda at: [i + begin if dim == axis else i for dim, i in enumerate(at)], whole=False
        )

    def _move(self, var: Any, source: Any, index: Index | None, *, whole: bool = True, in_place: bool = False) -> bool:
        if index is None or not is_var(source) or not is_float(var):
            return False
        before = self._moved.get(source)
        if before is None:
            before = Moved(source, lambda at: at, vectors=source in self._blocked)
        self._moved[var] = replace(
            before,
            index=lambda at: before.index(index(at)),
            whole=before.whole and whole,
            in_place=before.in_place and in_place,
        )
        return True

    def _unary(self, var: Any, call: Any) -> bool:
        """Before the move, where nothing was cut off."""
        moved = self._moved.get(call.args[0]) if is_var(call.args[0]) else None
        if moved is None or not (moved.vectors and moved.whole) or call.args[0] in self._blocked:
            return super()._unary(var, call)
        made = self._on_vectors(call, moved.source)
        self._blocked[made] = made
        self._moved[var] = replace(moved, source=made)
        return True

    def plain(self, expr: Any) -> Any:
        """As it is of other values; of one that was moved, read out of what it comes from at once."""
        from tvm import relax

        if is_var(expr) and expr in self._moved and expr not in self._plain:
            moved, shape = self._moved[expr], list(expr.ty.shape)
            if moved.in_place and not moved.vectors:
                self._plain[expr] = self.builder.emit(relax.op.reshape(self.plain(moved.source), shape))
            else:
                self._plain[expr] = self._gathered(expr, shape, lambda at: at, "moved")
        return super().plain(expr)

    def blocked(self, expr: Any) -> Any:
        """As it is of other values; one that was moved goes from vectors to vectors."""
        if expr in self._moved and expr not in self._blocked:
            lanes, (n, channels, high, wide) = self.lanes, expr.ty.shape
            shape = [n, -(-int(channels) // lanes), high, wide, lanes]

            def element(at: list[Any]) -> list[Any]:
                from tvm import tirx

                n, block, y, x, lane = at
                channel = block * lanes + lane
                return [n, tirx.min(channel, int(channels) - 1) if int(channels) % lanes else channel, y, x]

            self._blocked[expr] = self._gathered(expr, shape, element, "moved_vectors")
        return super().blocked(expr)

    def _gathered(self, var: Any, shape: list[Any], place: Index, name: str) -> Any:
        moved, lanes = self._moved[var], self.lanes

        def gather(data: Any) -> Any:
            from tvm import te

            def element(*at: Any) -> Any:
                index = moved.index(place(list(at)))
                if not moved.vectors:
                    return data[tuple(index)]
                n, channel, y, x = index
                return data[n, channel // lanes, y, x, channel % lanes]

            return te.compute(shape, element)

        source = self.blocked(moved.source) if moved.vectors else self.plain(moved.source)
        return self.emit(gather, source, name=name)


def reshaped(old: list[Any], new: list[Any]) -> Index | None:
    """Where a position of the shape ``new`` is in ``old``; None where what differs can vary in more than its first size."""
    from tvm import tirx

    before = _alike(old, new)
    behind = _alike(old[before:][::-1], new[before:][::-1])
    middles = old[before : len(old) - behind], new[before : len(new) - behind]
    if not all(is_int(size) for middle in middles for size in middle[1:]):
        return None

    def index(at: list[Any]) -> list[Any]:
        linear: Any = 0
        for i, size in zip(at[before:], middles[1], strict=False):
            linear = linear * size + i
        found: list[Any] = []
        for size in middles[0][:0:-1]:
            found.insert(0, tirx.floormod(linear, size))
            linear = tirx.floordiv(linear, size)
        return [*at[:before], *([linear] if middles[0] else []), *found, *at[len(new) - behind :]]

    return index


def _alike(old: list[Any], new: list[Any]) -> int:
    """How many sizes are equal before the first that differ."""
    from tvm_ffi import structural_equal

    pairs = zip(old, new, strict=False)
    return next((i for i, pair in enumerate(pairs) if not structural_equal(*pair)), min(len(old), len(new)))


def numbers_of(expr: Any) -> list[int] | None:
    """A tuple of numbers that are known; None for another."""
    try:
        return [int(field.value) for field in expr.fields]
    except (AttributeError, TypeError):
        return None
