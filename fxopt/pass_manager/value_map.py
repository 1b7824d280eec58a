"""Value map of an exact pass: each value equals an index-selected slice of a value of the original program.

Outputs alone can hide a wrong rewrite: a layer scale of 1e-6 in front of them, or a head of zeros. A pass that removes
indices therefore maps every node to its original value and kept indices, and verification compares all of them in float64,
which also names the first node that is wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import clearly_close, relative_error
from fxopt.numerics.execute import started, untouched
from fxopt.numerics.random_draws import KeyedDraws, draw_keys

_ROUNDING = 30
"""A model that amplifies rounding gets a larger tolerance: this many times the effect of one last-place unit of its inputs."""

_UNDEFINED = ("aten.empty_like", "aten.empty.memory_format")
"""Ops whose result is whatever was in memory."""

_CHAOS = 1e-6
"""But a value that such a unit changes by more than this proves nothing, and gets none."""


def first_wrong(before: Program, after: Program, inputs: list[Any], tolerance: float) -> tuple[fx.Node, float] | None:
    """Run two programs in step; return the first node of ``after`` whose value is not as claimed, and its error.

    ``inputs`` are flat; a value is compared as soon as it is computed, before anything writes into it. An error above
    ``tolerance`` is compared with the effect of rounding in ``before``.
    """
    noise: dict[str, float] | None = None
    with torch.no_grad(), torch.random.fork_rng(devices=[]), untouched(before), untouched(after):
        old, new = _Steps(before, inputs, draw_keys(before)), _Steps(after, inputs, draw_keys(after, before))
        for node in after.graph.nodes:
            value = new.run(node)
            claim = after.claims.get(node.name)
            if claim is None or op_name(node) in _UNDEFINED:
                continue
            was, kept = claim
            expected = old.value_of(was)
            if isinstance(expected, torch.Tensor) and isinstance(value, torch.Tensor):
                expected = _selected(expected, kept)
                if not clearly_close(expected, value, tolerance):
                    error = relative_error(expected, value)
                    if error <= tolerance:
                        continue
                    noise = noise or _amplified(before, inputs, dict(after.claims.values()))
                    if not error <= (_ROUNDING * noise[was] if noise[was] <= _CHAOS else 0.0):
                        return node, error
    return None


def _selected(value: torch.Tensor, kept: dict[int, torch.Tensor]) -> torch.Tensor:
    for dim, indices in kept.items():
        value = value.index_select(dim, indices)
    return value


def _amplified(program: Program, inputs: list[Any], claims: dict[str, dict[int, torch.Tensor]]) -> dict[str, float]:
    """By how much one unit in the last place of every floating input changes the claimed part of each value, by node name."""
    flips = torch.Generator().manual_seed(0)
    moved = [_next(v, flips) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in inputs]
    change = {}
    with untouched(program):
        keys = draw_keys(program)
        one, other = _Steps(program, inputs, keys), _Steps(program, moved, keys)
        for node in program.graph.nodes:
            a, b = one.run(node), other.run(node)
            if node.name in claims and isinstance(a, torch.Tensor):
                kept = claims[node.name]
                change[node.name] = relative_error(_selected(a, kept), _selected(b, kept))
    return change


def _next(tensor: torch.Tensor, flips: torch.Generator) -> torch.Tensor:
    up = torch.rand(tensor.shape, generator=flips) < 0.5
    return torch.nextafter(tensor, torch.where(up, torch.inf, -torch.inf).to(tensor.dtype))


class _Steps:
    """A program, run node by node on copies of flat inputs, with random numbers by key; a value is dropped after its last use."""

    def __init__(self, program: Program, inputs: list[Any], keys: dict[str, str]) -> None:
        self._interpreter = started(KeyedDraws(program, keys), inputs)
        self._left = iter(program.graph.nodes)

    def run(self, node: fx.Node) -> Any:
        """Compute a node whose operands were computed."""
        interpreter = self._interpreter
        interpreter.env[node] = value = interpreter.run_node(node)
        for used in interpreter.user_to_last_uses.get(node, []):
            del interpreter.env[used]
        return value

    def value_of(self, name: str) -> Any:
        """Go on in order until the node of this name has been computed, and return its value."""
        for node in self._left:
            value = self.run(node)
            if node.name == name:
                return value
        raise KeyError(name)
