"""Intermediate values of an artifact, by the name of the corresponding node of the float program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.driver.intermediate_values import Exposed, quantized_values
from fxopt.driver.layer_errors import Held
from fxopt.driver.plan import Plan
from fxopt.ir.op_table import DIRECT, arguments, family
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.runtime.artifact import Artifact

_HALF = 0.5
"""Of a step: what rounds to the least or the greatest integer is not clipped."""
KeptIndices = dict[str, dict[int, torch.Tensor]]
"""As ``Program.kept_indices``."""


class ArtifactValues:
    """Outputs of the artifact, and its intermediate values by the name of the reference's node."""

    def __init__(
        self, reference: Program, lowered: Program, built: Artifact, plan: Plan, folder: Path, kept: KeptIndices
    ) -> None:
        """``kept`` has the kept indices of pruned weights. ``unmatched`` are the values without counterpart in the reference."""
        here = {node.name for node in reference.graph.nodes}
        self._quantized = {node.name: node for node in quantized_values(lowered)}
        layers = [node.name for node in lowered.graph.nodes if family(node) == "contraction"]
        names = list(self._quantized) or [name for name in layers if name in here]
        self._exposed = Exposed(lowered, plan.backend, plan.target, built, folder, None if self._quantized else names)
        self._structure = pytree.tree_structure((reference.args, reference.kwargs))
        self._kept = {} if self._quantized else _kept_channels(lowered, reference, kept)
        self.unmatched = sorted({self._source(name) for name in list(self._quantized) or layers} - here)

    def _source(self, name: str) -> str:
        quantize = self._quantized.get(name)
        return name if quantize is None else quantize.all_input_nodes[0].name

    def __call__(self, leaves: list[Any]) -> tuple[list[torch.Tensor], dict[str, Held]]:
        """Flat outputs for flat inputs, and the values."""
        arrays = [leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(arrays, self._structure)
        outputs, values = self._exposed(*args, **kwargs)
        held: dict[str, Held] = {}
        for name, value in values.items():
            held.setdefault(self._source(name), _held(self._quantized.get(name), self._whole(name, value)))
        return outputs, held

    def _whole(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A value with zeros for the channels that were removed."""
        if name not in self._kept:
            return value
        dim, indices, size = self._kept[name]
        shape = list(value.shape)
        shape[dim] = size
        return value.new_zeros(shape).index_copy_(dim, indices, value)


def _kept_channels(program: Program, reference: Program, kept: KeptIndices) -> dict[str, tuple[int, torch.Tensor, int]]:
    """By the name of a layer with fewer channels than in the reference: their dim, the kept ones, and the original number."""
    before = {node.name: node for node in reference.graph.nodes}
    found = {}
    for node in program.graph.nodes:
        weight = arguments(node).get("weight") if family(node) == "contraction" else None
        if isinstance(weight, fx.Node) and node.name in before and weight.op == "get_attr":
            left = kept.get(str(weight.target), {}).get(0)
            dim = 1 if op_name(node) in DIRECT else -1
            size = int(before[node.name].meta["val"].shape[dim])
            if left is not None and len(left) < size:
                found[node.name] = dim, left, size
    return found


def _held(quantize: fx.Node | None, value: torch.Tensor) -> Held:
    """A value dequantized, as its readers see it."""
    if quantize is None:
        return Held(value)
    reader = next((user for user in quantize.users if family(user) == "quant"), quantize)
    read: tuple[Any, ...] = reader.args
    made: tuple[Any, ...] = quantize.args
    (scale, zero), (own_scale, own_zero, low, high) = read[1:3], made[1:5]
    bounds = (low - own_zero - _HALF) * own_scale, (high - own_zero + _HALF) * own_scale
    return Held((value.float() - zero) * scale, bounds)
