"""Whether the integer kernels of an artifact compute the same as the quantized program, value by value, each on its own inputs.

The program is replayed in float64, where sums of products of integers are exact; at each quantize node the artifact's own
quantized values replace those of the replay, so that the error of one kernel does not carry over to the next. A convolution
or product between integers is one multiplication and one rounding away from its quantized value: a tie may be rounded the
other way, nothing may be more than a step off. Other kernels, such as sums and pools, requantize in their own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import arguments, bounds, family
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import relative_error
from fxopt.numerics.execute import replayed

_FAR_SHARE = 1e-3
"""The share of elements that may be more than a step off for other ops than convolutions and products."""
_ROUNDED = 2**-22
"""How near float32 is to a tie, of the range of codes: the scale, quotient and sum with a zero point are rounded."""
_NEAR_SHARE, _FEW = 0.1, 16
"""The share of elements that may be one step off, as ties are rare; and a number of them that is always allowed."""


@dataclass(frozen=True)
class ValueCheck:
    """One value: ``node`` computes it, ``exact`` if by a convolution or product of integers; ``value`` names what quantizes it.

    Of ``numbers`` elements ``near`` are one step off and ``far`` more, ``worst`` the most, and ``up`` of these are too large;
    ``ties`` of the near ones lie at a tie, which may be rounded either way. Of an output in float ``error`` is the largest
    relative difference, and the others are 0.
    """

    node: fx.Node
    exact: bool
    numbers: int
    near: int = 0
    far: int = 0
    up: int = 0
    ties: int = 0
    worst: int = 0
    error: float = 0.0
    value: str = ""

    def wrong(self, tolerance: float) -> bool:
        """Whether this cannot be rounding; ``tolerance`` is the relative difference that an output in float may have."""
        far = self.far > (0 if self.exact else _FAR_SHARE * self.numbers)
        near = self.near - self.ties > max(_FEW, _NEAR_SHARE * self.numbers)
        return far or near or self.error > tolerance

    def __str__(self) -> str:
        if not self.worst:
            return f"off by {self.error:.2g} relative"
        return (
            f"{self.near + self.far:,} of {self.numbers:,} codes are off, {self.far:,} of them by more than a step, "
            f"by {self.worst} at most"
        )


def check_values(
    program: Program, twin: Program, inputs: list[Any], outputs: list[Any], codes: Mapping[str, torch.Tensor]
) -> list[ValueCheck]:
    """Compare quantized values (``codes``, by quantize node) and flat ``outputs`` of an artifact with the quantized program.

    ``twin`` is the program in float64. Values that are missing are checked as part of their readers. Outputs are checked in
    float, integer ones not at all: they are either quantized values or depend on many at once.
    """
    here = {node.name: node for node in program.graph.nodes}
    replay = _Replay(twin.module, here, codes)
    results = replayed(replay, twin, inputs)
    tensors = [(n, r) for n, r in zip(program.outputs(), results, strict=True) if isinstance(r, torch.Tensor)]
    found = list(replay.found)
    for (node, want), got in zip(tensors, outputs, strict=True):
        if want.is_floating_point():
            found.append(ValueCheck(maker(node), False, 0, error=relative_error(want, got)))
    return found


class _Replay(fx.Interpreter):
    """Runs node by node, with quantized values of an artifact in place of its own."""

    def __init__(self, module: fx.GraphModule, here: dict[str, fx.Node], codes: Mapping[str, torch.Tensor]) -> None:
        super().__init__(module)
        self._here, self._codes = here, codes
        self.found: list[ValueCheck] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        got = self._codes.get(n.name)
        if got is None:
            return value
        node = self._here[n.name]
        if got.shape != value.shape or got.dtype != value.dtype:
            self.found.append(ValueCheck(maker(node), True, value.numel(), error=float("inf")))
            return value
        off = got.to(torch.int32) - value.to(torch.int32)
        steps, up = off.abs(), int((off > 0).sum())
        far, worst = int((steps > 1).sum()), int(steps.max()) if steps.numel() else 0
        x, scale, _, low, high = self.fetch_args_kwargs_from_env(n)[0][:5]
        near, ties = int((steps == 1).sum()), int(((steps == 1) & at_tie(in_steps(x, scale), low, high)).sum())
        facts = value.numel(), near, far, up, ties, worst
        self.found.append(ValueCheck(maker(node), _is_exact(node), *facts, value=n.name))
        return got


def in_steps(x: torch.Tensor, scale: Any) -> torch.Tensor:
    """Values in steps of a scale, in float64, before they are rounded."""
    return x / torch.as_tensor(scale, dtype=torch.float32).double()


def at_tie(steps: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Which elements lie at a tie, as far as float32 can tell: a drawn image does with a quarter of its pixels."""
    return (steps - steps.floor() - 0.5).abs() <= _ROUNDED * (high - low)


def _is_exact(node: fx.Node) -> bool:
    """Whether a node quantizes the result of an integer convolution or product, with or without a fused activation."""
    source: Any = node.args[0]
    while bounds(source) is not None:  # a clamp, which the kernel applies as it rounds
        source = source.args[0]
    if family(source) != "contraction":
        return False
    bias = arguments(source).get("bias")
    return all(family(operand) == "quant" for operand in source.all_input_nodes if operand is not bias)


def maker(node: fx.Node) -> fx.Node:
    """The node to name for a value: the convolution or product that computes it, or the value itself."""
    while family(node) != "contraction" and len(node.all_input_nodes) == 1:
        (source,) = node.all_input_nodes
        if source.op != "call_function" or (family(source) == "quant" and family(node) != "quant"):
            break
        node = source
    return node
