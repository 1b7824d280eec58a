"""A scatter plot as places in an SVG of 640 by 360: plain numbers, which the template draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fxopt.driver.page.elements import Dot, Plot
from fxopt.driver.page.words import short

WIDTH, HEIGHT = 640.0, 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 72.0, 16.0, 16.0, 44.0


@dataclass(frozen=True)
class Placed:
    """A dot with its place, and a number to find it in the table by."""

    dot: Dot
    x: float
    y: float
    number: int


@dataclass(frozen=True)
class Drawing:
    """Dots, ticks as ``(place, text)``, and the staircase of the front as an SVG path."""

    dots: tuple[Placed, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    front: str


def draw(plot: Plot) -> Drawing:
    """Give the dots of a plot their places; those that no other beats in both are joined by the staircase that they bound."""
    xs, ys = [dot.x for dot in plot.dots], [dot.y for dot in plot.dots]
    across, up = _Axis(xs, _LEFT, WIDTH - _RIGHT), _Axis(ys, HEIGHT - _BOTTOM, _TOP)
    dots = tuple(Placed(dot, across(dot.x), up(dot.y), i + 1) for i, dot in enumerate(plot.dots))
    best, corners = math.inf, []
    for placed in sorted((p for p in dots if p.dot.tone != "bad"), key=lambda p: (p.dot.x, p.dot.y)):
        if placed.dot.y < best:
            best = placed.dot.y
            corners.append(placed)
    path = "".join(f"{f'H{p.x:.1f}V{p.y:.1f}' if i else f'M{p.x:.1f} {p.y:.1f}'}" for i, p in enumerate(corners))
    return Drawing(dots, across.ticks, up.ticks, path)


class _Axis:
    """Maps numbers to places, with round ticks."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        room = (high - low or abs(high) or 1.0) * 0.08
        self._low, self._high, self._start, self._end = low - room, high + room, start, end
        step = 10 ** math.floor(math.log10((self._high - self._low) / 4))
        step *= next(m for m in (1, 2, 5, 10) if (self._high - self._low) / (m * step) <= 6)
        first = math.ceil(self._low / step)
        marks = [(first + i) * step for i in range(7) if (first + i) * step <= self._high]
        self.ticks = tuple((self(mark), short(mark)) for mark in marks)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._low) / (self._high - self._low) * (self._end - self._start)
