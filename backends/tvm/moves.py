"""Reshapes, permutations and slices of values in vectors, which are done when what comes of them is read, in one kernel.

A value that was only moved is known by the value it comes from, and by where each of its elements is there. What is done
element by element is done before the move, where it becomes a part of the kernel that multiplies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fxopt.backends.tvm.channelwise import Channelwise
from fxopt.backends.tvm.sizes import axes_of, ints, is_float, is_int, is_var
from fxopt.backends.tvm.tasks import Choices

Index = Callable[[list[Any]], list[Any]]
"""The position in what was moved of a position in what comes of it."""


@dataclass(frozen=True)
class Moved:
    """Where the elements of a value are in ``source``, a variable of rank 4 in vectors."""

    source: Any
    index: Index
    whole: bool = True
    """Whether all elements of the source are there."""


class Moves(Channelwise):
    """Handlers of ops that move elements, and the forms of what they give."""

    def __init__(self, choices: Choices, places: dict[str, str]) -> None:
        super().__init__(choices, places)
        self._moved: dict[Any, Moved] = {}
        self._parts: dict[Any, tuple[Any, int, list[int]]] = {}

    def _reshape(self, var: Any, call: Any) -> bool:
        return self._move(var, call.args[0], reshaped(list(call.args[0].ty.shape), list(var.ty.shape)))

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

    def _move(self, var: Any, source: Any, index: Index | None, *, whole: bool = True) -> bool:
        if index is None or not is_var(source) or not is_float(var):
            return False
        before = self._moved.get(source)
        if before is None and source in self._blocked:
            before = Moved(source, lambda at: at)
        if before is None:
            return False
        self._moved[var] = Moved(before.source, lambda at: before.index(index(at)), before.whole and whole)
        return True

    def _unary(self, var: Any, call: Any) -> bool:
        """Before the move, where nothing was cut off."""
        moved = self._moved.get(call.args[0]) if is_var(call.args[0]) else None
        if moved is None or not moved.whole or call.args[0] in self._blocked:
            return super()._unary(var, call)
        made = self._on_vectors(call, moved.source)
        self._blocked[made] = made
        self._moved[var] = replace(moved, source=made)
        return True

    def plain(self, expr: Any) -> Any:
        """As it is of other values; of one that was moved, read out of the vectors at once."""
        if is_var(expr) and expr in self._moved and expr not in self._plain:
            self._plain[expr] = self._gathered(expr, list(expr.ty.shape), lambda at: at, "moved")
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
                n, channel, y, x = moved.index(place(list(at)))
                return data[n, channel // lanes, y, x, channel % lanes]

            return te.compute(shape, element)

        return self.emit(gather, self.blocked(moved.source), name=name)


def reshaped(old: list[Any], new: list[Any]) -> Index | None:
    """Where a position of the shape ``new`` is in ``old``; None where more than their first sizes can vary."""
    from tvm import tirx
    from tvm_ffi import structural_equal

    if not all(map(is_int, [*old[1:], *new[1:]])) or not old or not new:
        return None
    kept = int(bool(structural_equal(old[0], new[0])))

    def index(at: list[Any]) -> list[Any]:
        linear: Any = 0
        for i, size in zip(at[kept:], new[kept:], strict=True):
            linear = linear * size + i
        found: list[Any] = []
        for size in old[:kept:-1]:
            found.insert(0, tirx.floormod(linear, size))
            linear = tirx.floordiv(linear, size)
        return [*at[:kept], *([linear] if len(old) > kept else []), *found]

    return index


def numbers_of(expr: Any) -> list[int] | None:
    """A tuple of numbers that are known; None for another."""
    try:
        return [int(field.value) for field in expr.fields]
    except (AttributeError, TypeError):
        return None
