"""Write a clamp in the one form that backends know best."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments, set_argument
from fxopt.ir.printer import op_name

_BOUNDS = {
    "aten.clamp": ("min", "max"), "aten.clamp_min": ("min", ""), "aten.clamp_max": ("", "max"),
    "aten.hardtanh": ("min_val", "max_val"),
}  # fmt: skip


@graph_pass
def canonicalize_clamp(program: Program) -> None:
    """Canonicalize clamps: relu where the only bound is a lower one of zero, float bounds for float tensors.

    Runtimes fuse relu into the layer before it where they know no other clamp, and exporters stumble over bounds of which
    one is an int and one a float.

    before:
        %x : f32[2,4]
        %y = aten.clamp(%x, 0)
        %z = aten.clamp(%y, 0, 0.5)
        return %z
    after:
        %x : f32[2,4]
        %y = aten.relu(%x)
        %z = aten.clamp(%y, 0.0, 0.5)
        return %z
    """
    for node in program.find(*_BOUNDS):
        low, high = (_bound(node, name) for name in _BOUNDS[op_name(node)])
        if low == 0 and high in (None, math.inf):
            program.replace(node, program.call(torch.ops.aten.relu.default, node.args[0], like=node))
        elif node.meta["val"].is_floating_point():
            for name, value in zip(_BOUNDS[op_name(node)], (low, high), strict=True):
                if isinstance(value, int):
                    set_argument(node, name, float(value))


def _bound(node: fx.Node, name: str) -> Any:
    return arguments(node)[name] if name else None
