"""Outputs whose sizes depend on the values, as those of non-maximum suppression: two programs may give other numbers of rows."""

from __future__ import annotations

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from fxopt.ir.program import Program

NOTHING_LEFT = (
    "the sizes of all outputs depend on the values, so that no two numbers belong together; "
    "what the pass costs is said by a metric on data alone"
)


def value_dependent(program: Program) -> set[int]:
    """Which of the flat outputs have a size that is known only when the program runs."""
    values = [node.meta.get("val") if isinstance(node, fx.Node) else None for node in program.outputs()]
    return {i for i, v in enumerate(values) if isinstance(v, torch.Tensor) and free_unbacked_symbols(v)}
