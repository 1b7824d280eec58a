"""The interface of a trained supernet that a search uses; the analysis ``supernet`` returns one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

Subnet = tuple[tuple[int, ...], tuple[int, ...]]
"""How many units of each width are used, and the numbers of the branches that are off."""


class Supernet(Protocol):
    """A trained program and its sub-networks."""

    names: tuple[str, ...]
    """Of the widths."""
    layers: tuple[str, ...]
    """Of the sums whose branches may be off."""

    def offered(self) -> tuple[tuple[int, ...], ...]:
        """Of each width the numbers of units to choose from, ascending."""

    def canonical(self, widths: Sequence[int], off: Sequence[int]) -> Subnet:
        """The canonical spelling: equal for equal sub-networks."""

    def draw(self, offered: Sequence[Sequence[int]], count: int, least: float, seed: int) -> list[Subnet]:
        """The smallest with ``least`` of the whole's MACs or more, and others at random, their MACs spread evenly."""

    def costs(self, widths: Sequence[int], off: Sequence[int]) -> dict[str, float]:
        """``macs`` and ``params``."""

    def features(self, widths: Sequence[int], off: Sequence[int]) -> dict[str, float]:
        """Features that predict latency."""

    def outputs(self, widths: Sequence[int], off: Sequence[int], batches: Sequence[list[Any]]) -> list[list[Any]]:
        """Flat outputs for batches of flat inputs, batch norms re-estimated."""

    def passes(self, widths: Sequence[int], off: Sequence[int]) -> tuple[str, ...]:
        """The passes that make a sub-network a program of its own."""

    def proof(self, widths: Sequence[int], off: Sequence[int]) -> float:
        """Largest relative error in float64 of the extracted program against the supernet's own sub-network."""
