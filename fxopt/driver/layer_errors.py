"""Where an artifact's error is made, and where it only passes through: its values against those of the program in float.

The program in float is run twice. Once as it is, which gives what each value should be. And once with each value that the
artifact computed put in place of its own as soon as that is compared: a layer then sees the inputs that the artifact's layer
saw, so that what differs after it was made in it.
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


@dataclass(frozen=True)
class Held:
    """A value as the artifact held it; ``bounds`` are the least and the greatest number that its integers can hold."""

    value: torch.Tensor
    bounds: tuple[float, float] | None = None


@dataclass
class Observed:
    """What was seen of one value over all batches: its error in all, and what was ``made`` between it and the values before.

    ``low`` and ``high`` are the range of what it should be; ``clipped`` of ``count`` numbers did not fit into its integers.
    ``reads`` are the nearest values before it that were observed.
    """

    all: ErrorSums = field(default_factory=ErrorSums)
    made: ErrorSums = field(default_factory=ErrorSums)
    low: float = float("inf")
    high: float = float("-inf")
    clipped: int = 0
    count: int = 0
    reads: tuple[str, ...] = ()

    def add(self, want: torch.Tensor, here: torch.Tensor, held: Held) -> None:
        """Add a batch: what it should be, what it is for the artifact's own inputs, and what the artifact has.

        What does not fit ``here`` and would have fitted is the fault of a layer before, and was not made in this one.
        """
        self.all.add(want, held.value)
        counted = None
        if held.bounds is not None:
            low, high = held.bounds
            outside, fits = (here < low) | (here > high), (want >= low) & (want <= high)
            counted = ~(outside & fits)
            self.clipped += int(((want < low) | (want > high)).sum())
        self.made.add(here, held.value, counted)
        self.low, self.high = min(self.low, want.min().item()), max(self.high, want.max().item())
        self.count += want.numel()


def observe(
    program: Program,
    inputs: list[Any],
    held: Mapping[str, Held],
    outputs: list[torch.Tensor],
    into: dict[str, Observed],
) -> None:
    """Add one batch of flat ``inputs``: ``held`` by the name of the node in ``program``, and flat ``outputs``, of the artifact.

    ``into`` has values by the name of the node, an output under the name of what gives it.
    """
    tensors = [node for node in program.outputs() if isinstance(node, fx.Node)]
    given = {node.name: Held(value) for node, value in zip(tensors, outputs, strict=False)} | dict(held)
    with torch.no_grad():
        with untouched(program):
            plain = _Keep(program.module, set(given))
            started(plain, inputs).run(*inputs, enable_io_processing=False)
        with untouched(program):
            started(_Replace(program.module, plain.kept, given, into), inputs).run(*inputs, enable_io_processing=False)


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
        seen.add(want, value, held)
        self._from[n] = (n.name,)
        return held.value.to(value.dtype)
