"""The form of a region: its computation, without the values of its weights."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import fx

from fxopt.ir.program import Program
from fxopt.pass_manager.frozen_call import frozen_call
from fxopt.pass_manager.regions.region import Region


def form_of(region: Region, before: Program, after: Program) -> Hashable:
    """Equal for two regions that have the same calls of the same operands, on leaves and weights of the same types."""
    numbers: dict[fx.Node, int] = {}
    lines: list[Hashable] = []
    for node in region.leaves:
        numbers[node] = len(numbers)
        lines.append(_type(node.meta["val"]))
    for program, nodes in ((before, region.old), (after, region.new)):
        if program is after:
            numbers |= {node: numbers[was] for node, was in region.cut.items()}
        for node in nodes:
            tensor = program.tensor(node)
            if node.op == "get_attr":
                lines.append(_type(tensor) if tensor is not None else node)
            else:
                lines.append((node.op, str(node.target), frozen_call(node, numbers.__getitem__)))
            numbers[node] = len(numbers)
    return (*lines, numbers[region.was], numbers[region.goal])


def _type(value: object) -> Hashable:
    return (value.dtype, str(tuple(value.shape))) if isinstance(value, torch.Tensor) else str(value)
