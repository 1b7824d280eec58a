"""Rule of :mod:`fxopt.passes.prune.known.values` for the same elements, in the same order, in another shape."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import sympy
import torch

from fxopt.passes.prune.known.cells import Cells, collapse, extents, settle, spread, symbolic


def reshape(cells: torch.Tensor, before: Iterable[Any], after: Iterable[Any]) -> Cells:
    """Cells of a value of shape ``before``, read row-major as ``after``; None where that is beyond the limit.

    The dims fall into segments that have the same number of elements before and after; only a segment of several dims
    along which cells vary is expanded. A segment with a symbolic size repeats the concrete dims after it, [n, 12] as
    [12·n]; where concrete dims precede the size, only cells that are the same all over are kept.
    """
    before, after = list(before), list(after)
    old, new = extents(before), extents(after)
    inner = list(cells.shape)
    outer = [1] * len(new)
    mixed: list[int] = []
    for source, target in _segments(before, after):
        if all(inner[d] == 1 for d in source):
            continue
        whole = math.prod(old[d] for d in source) == math.prod(new[d] for d in target)
        if not (whole and _leads([before[d] for d in source]) and _leads([after[d] for d in target])):
            cells = settle(cells, source)
            inner = list(cells.shape)
            continue
        for d in source:
            inner[d] = old[d]
        for d in target:
            outer[d] = new[d]
        mixed += target if len(target) > 1 else []
    full = spread(cells, inner)
    return None if full is None else collapse(full.reshape(outer), mixed)


def _leads(sizes: list[Any]) -> bool:
    """Whether the flat index repeats: no concrete dim precedes a symbolic one, no factor the last of them."""
    places = symbolic(sizes)
    factors = extents(sizes)
    return all(place == i for i, place in enumerate(places)) and all(factors[p] == 1 for p in places[:-1])


def _segments(before: list[Any], after: list[Any]) -> Iterator[tuple[list[int], list[int]]]:
    """The smallest runs of dims, before and after, that hold the same number of elements."""
    old, new = _numbers(before, after)
    i = j = 0
    while i < len(old) or j < len(new):
        source: list[int] = []
        target: list[int] = []
        a = b = 1
        while True:
            if i < len(old) and (a < b or not source):
                a *= old[i]
                source.append(i)
                i += 1
            elif j < len(new) and (b < a or not target):
                b *= new[j]
                target.append(j)
                j += 1
            else:
                break
        yield source, target


def _numbers(*shapes: list[Any]) -> list[list[int]]:
    """Shapes with a prime for each symbol: products are equal for every input if they are equal for these."""
    symbols = {
        s for shape in shapes for size in shape if not isinstance(size, int) for s in size.node.expr.free_symbols
    }
    primes = tuple((symbol, sympy.nextprime(10**6, i + 1)) for i, symbol in enumerate(sorted(symbols, key=str)))
    return [[s if isinstance(s, int) else _number(s.node.expr, primes) for s in shape] for shape in shapes]


@functools.cache
def _number(size: sympy.Expr, primes: tuple[tuple[sympy.Symbol, int], ...]) -> int:
    return int(size.subs(primes))
