"""Where an artifact's error originates, and where it only propagates: its values against those of the float program.

The float program is run twice. Once unchanged, for the reference of each value. And once with each value replaced by the
artifact's as soon as it is compared: a layer then has the inputs of the artifact's layer, so that the difference after it
originates in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from fxopt.ir.program import Program
from fxopt.numerics.error_sums import ErrorSums
from fxopt.numerics.execute import started, untouched

BINS = 24
"""Equal parts of the range of the integers in which values are counted."""


@dataclass(frozen=True)
class Held:
    """A value of the artifact; ``bounds`` are the least and the greatest number that one of its integers is nearest to."""

    value: torch.Tensor
    bounds: tuple[float, float] | None = None


@dataclass
class Observed:
    """Statistics of one value over all batches: its error in ``all``, and the part ``made`` since the values before it.

    ``low`` and ``high`` are the range of the reference; ``clipped`` of ``count`` elements are outside that of the integers.
    ``histogram`` counts the reference below that range, in ``BINS`` equal parts of it, and above; empty without integers.
    ``reads`` are the nearest observed values before it.
    """

    all: ErrorSums = field(default_factory=ErrorSums)
    made: ErrorSums = field(default_factory=ErrorSums)
    low: float = float("inf")
    high: float = float("-inf")
    clipped: int = 0
    count: int = 0
    histogram: list[int] = field(default_factory=list)
    reads: tuple[str, ...] = ()

    def add(self, want: torch.Tensor, here: torch.Tensor, held: Held) -> torch.Tensor:
        """Add a batch: the reference, the result for the artifact's own inputs (``here``), and the artifact's value.

        Returns the error that originates here. An element that is clipped ``here`` but not in the reference is the fault of an
        earlier layer.
        """
        self.all.add(want, held.value)
        counted = None
        if held.bounds is not None:
            low, high = held.bounds
            outside, fits = (here < low) | (here > high), (want >= low) & (want <= high)
            counted = ~(outside & fits)
            self.clipped += int(((want < low) | (want > high)).sum())
            counts = _counts(want, low, high)
            self.histogram = [a + b for a, b in zip(self.histogram or [0] * len(counts), counts, strict=True)]
        self.made.add(here, held.value, counted)
        self.low, self.high = min(self.low, want.min().item()), max(self.high, want.max().item())
        self.count += want.numel()
        error = held.value - here
        return error if counted is None else error * counted


def _counts(value: torch.Tensor, low: float, high: float) -> list[int]:
    value = value[~value.isnan()]
    inside = ((value - low) * (BINS / (high - low))).floor().clamp(0, BINS - 1) + 1  # the end belongs to the last part
    part = inside.masked_fill(value < low, 0).masked_fill(value > high, BINS + 1)
    return torch.bincount(part.long(), minlength=BINS + 2).tolist()


def observe(
    program: Program,
    inputs: list[Any],
    held: Mapping[str, Held],
    outputs: list[torch.Tensor],
    into: dict[str, Observed],
) -> dict[str, torch.Tensor]:
    """Add one batch of flat ``inputs``: the artifact's values ``held``, by node name in ``program``, and flat ``outputs``.

    ``into`` has the statistics by node name, those of an output under the name of its node. Returns the error of each value
    that its own layer makes.
    """
    tensors = [node for node in program.outputs() if isinstance(node, fx.Node)]
    given = {node.name: Held(value) for node, value in zip(tensors, outputs, strict=False)} | dict(held)
    with torch.no_grad():
        with untouched(program):
            plain = _Keep(program.module, set(given))
            started(plain, inputs).run(*inputs, enable_io_processing=False)
        with untouched(program):
            replaced = _Replace(program.module, plain.kept, given, into)
            started(replaced, inputs).run(*inputs, enable_io_processing=False)
    return replaced.errors


class _Keep(fx.Interpreter):
    """Keeps some of the values."""

    def __init__(self, module: fx.GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self._names = names
        self.kept: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._names and isinstance(value, torch.Tensor) and value.is_floating_point():
            self.kept[n.name] = value.clone()  # a later op may write into it
        return value


class _Replace(fx.Interpreter):
    """Goes on with the artifact's values instead of its own."""

    def __init__(
        self, module: fx.GraphModule, want: dict[str, torch.Tensor], held: Mapping[str, Held], into: dict[str, Observed]
    ) -> None:
        super().__init__(module)
        self._want, self._held, self._into = want, held, into
        self._from: dict[fx.Node, tuple[str, ...]] = {}
        self.errors: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self._from[n] = tuple(
            dict.fromkeys(name for operand in n.all_input_nodes for name in self._from.get(operand, ()))
        )
        want, held = self._want.get(n.name), self._held.get(n.name)
        if want is None or held is None or held.value.shape != want.shape:
            return value
        seen = self._into.setdefault(n.name, Observed())
        seen.reads = self._from[n]
        self.errors[n.name] = seen.add(want, value, held)
        self._from[n] = (n.name,)
        return held.value.to(value.dtype)
