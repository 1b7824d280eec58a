"""channels_last, the memory format that convolutions run fastest in, for programs that allow it."""

from __future__ import annotations

from typing import Any

import torch

from fxopt.ir.op_table import Trait, has, lookup
from fxopt.ir.program import Program


def runs_in_any_layout(program: Program) -> bool:
    """Whether no op of the program depends on the memory format that it was captured with, as an unknown one may."""
    calls = (node for node in program.graph.nodes if node.op == "call_function")
    return not any(lookup(node) is None or has(node, Trait.BOUND_TO_STRIDES) for node in calls)


def channels_last(values: list[Any]) -> list[Any]:
    """Values with the channels of images innermost, which oneDNN convolves in about two thirds of the time."""
    return [
        value.contiguous(memory_format=torch.channels_last)
        if isinstance(value, torch.Tensor) and value.dim() == 4 and value.is_floating_point()
        else value
        for value in values
    ]
