"""An axis: how one dim of a value is made up, from factors that are either fixed or hold monomials.

``(768,)`` is a dim that never changes, ``(rows,)`` one whose indices hang on atoms, ``(batch, heads)`` a dynamic size
merged with one, the slower first. Dynamic sizes are stood for by huge numbers, see :func:`size_of`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import sympy
import torch

from fxopt.passes.prune.coupling.atoms import Atoms, Rows, product

Factor = int | Rows
Axis = tuple[Factor, ...]

SYMBOLIC = 1 << 40
"""Sizes from here on stand for dynamic ones."""

_SMOOTH = 2**16 * 3**4 * 5**2 * 7**2 * 11 * 13
"""Divides the number that stands for a symbol, so that ``s // 32 * 32`` is ``s``."""


def size_of(size: Any) -> int:
    """A size as a number; each dynamic symbol is a huge one of its own, so that equal products are equal sizes."""
    if isinstance(size, int):
        return size
    return _number(sympy.sympify(size.node.expr))


@functools.cache
def _number(expression: sympy.Expr) -> int:
    stand_ins = {s: sympy.Integer(_stand_in(str(s))) for s in expression.free_symbols}
    value = expression.xreplace(stand_ins)
    return int(value) if value.is_Integer else _stand_in(str(expression))


@functools.cache
def _stand_in(name: str) -> int:
    number = int.from_bytes(name.encode(), "big") % (1 << 61)
    return int(sympy.nextprime((1 << 61) + number)) * _SMOOTH


def sizes_of(value: torch.Tensor) -> list[int]:
    """Sizes of a fake tensor, see :func:`size_of`."""
    return [size_of(s) for s in value.shape]


def axis_of(rows: Rows) -> Axis:
    """The axis of indices with these monomials; an empty one is fixed."""
    return (rows,) if len(rows) else (0,)


def is_fixed(axis: Axis) -> bool:
    """Whether no index of it can ever be removed."""
    return not any(isinstance(f, np.ndarray) for f in axis)


def length(axis: Axis) -> int:
    """How many indices it has before anything is removed."""
    return math.prod(f if isinstance(f, int) else len(f) for f in axis)


def arrays(axis: Axis) -> list[Rows]:
    """Its factors that hold monomials."""
    return [f for f in axis if isinstance(f, np.ndarray)]


def merged(*axes: Axis) -> Axis:
    """One axis for several that are merged into one dim, the slowest first."""
    factors: list[Factor] = []
    for factor in (f for axis in axes for f in axis):
        last = factors[-1] if factors else None
        if isinstance(factor, np.ndarray) and len(factor) == 0:
            factor = 0
        if isinstance(factor, int) and factor == 1:
            continue
        if isinstance(factor, int) and isinstance(last, int):
            factors[-1] = last * factor
        elif isinstance(factor, np.ndarray) and isinstance(last, np.ndarray):
            factors[-1] = product(last, factor)
        else:
            factors.append(factor)
    return tuple(factors) or (1,)


def rows_of(axis: Axis) -> Rows | None:
    """Monomials of every index; None where a dynamic size is part of it."""
    if length(axis) >= SYMBOLIC:
        return None
    if len(axis) == 1 and isinstance(axis[0], np.ndarray) and axis[0].shape[1] == 1:
        return axis[0]
    rows = np.zeros((1, 1), np.int64)
    for factor in axis:
        rows = product(rows, np.zeros((factor, 1), np.int64) if isinstance(factor, int) else factor)
    used = np.asarray(rows.any(0))
    used[0] |= not used.any()
    return rows[:, used]


def pin(atoms: Atoms, axis: Axis, reason: int) -> None:
    """No index of ``axis`` may go."""
    for rows in arrays(axis):
        atoms.pin(rows, reason)


def unite(atoms: Atoms, a: Axis, b: Axis, reason: int) -> Axis:
    """Let two axes of one length keep the same indices; return the one that says more."""
    if is_fixed(a) and is_fixed(b):
        return a
    if a is b:
        return a
    if _shape(a) == _shape(b):
        for left, right in zip(arrays(a), arrays(b), strict=True):
            if left is not right:
                atoms.unite(left, right, reason)
        return a
    x, y = rows_of(a), rows_of(b)
    if x is None or y is None:
        pin(atoms, a, reason)
        pin(atoms, b, reason)
    elif is_fixed(a) or is_fixed(b):
        atoms.pin(y if is_fixed(a) else x, reason)
    else:
        atoms.unite(x, y, reason)
    return b if is_fixed(a) else a


def _shape(axis: Axis) -> list[tuple[bool, int]]:
    return [(isinstance(f, int), f if isinstance(f, int) else len(f)) for f in axis]


def split(atoms: Atoms, factor: Factor, outer: int, reason: int) -> tuple[Factor, Factor]:
    """Write a factor as a product of two, the first of size ``outer``."""
    if isinstance(factor, int):
        return outer, factor // outer
    return atoms.split(factor, outer, len(factor) // outer, reason)


def reshape(atoms: Atoms, axes: list[Axis], sizes: list[int], reason: int) -> list[Axis]:
    """The axes of the same elements in another shape; pins everything where the shapes have no common refinement."""
    if 0 in sizes:
        return _all_fixed(atoms, axes, sizes, reason)
    queue: list[Factor] = [f for axis in axes for f in axis]
    made: list[Axis] = []
    for size in sizes:
        taken: list[Axis] = []
        while size > 1:
            if not queue:
                return _all_fixed(atoms, axes, sizes, reason)
            factor = queue.pop(0)
            n = length((factor,))
            if n == 1:
                pin(atoms, (factor,), reason)
            elif size % n == 0:
                taken.append((factor,))
                size //= n
            elif n % size == 0:
                outer, inner = split(atoms, factor, size, reason)
                taken.append((outer,))
                queue.insert(0, inner)
                size = 1
            else:  # they cross: merge with what follows, and split that
                rows = rows_of(merged((factor,), (queue.pop(0),))) if queue else None
                if rows is None:
                    return _all_fixed(atoms, axes, sizes, reason)
                queue.insert(0, rows if rows.any() else len(rows))
        made.append(merged(*taken) if taken else (1,))
    for factor in queue:
        pin(atoms, (factor,), reason)
    return made


def _all_fixed(atoms: Atoms, axes: list[Axis], sizes: list[int], reason: int) -> list[Axis]:
    for axis in axes:
        pin(atoms, axis, reason)
    return [(size,) for size in sizes]
