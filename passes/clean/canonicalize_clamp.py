"""Write a clamp in the one form that backends know best."""

from __future__ import annotations

import math

import torch

from fxopt import Program, graph_pass
from fxopt.ir.op_table import TABLE, bounds, set_argument
from fxopt.ir.printer import op_name

_BOUNDS = {
    name: row.bounds for name, row in TABLE.items() if row.bounds and any(isinstance(b, str) for b in row.bounds)
}
"""The arguments of clamps that have some."""


@graph_pass
def canonicalize_clamp(program: Program) -> None:
    """Canonicalize clamps of float tensors: relu where zero is the only bound, float bounds.

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
        if op_name(node) not in _BOUNDS:
            continue  # by tensors, which a name without an overload finds too
        if not node.meta["val"].is_floating_point():
            continue  # runtimes have a clip of integers, and no relu
        low, high = bounds(node) or (None, None)
        if low == 0 and high in (None, math.inf):
            program.replace(node, program.call(torch.ops.aten.relu.default, node.args[0], like=node))
            continue
        for name, value in zip(_BOUNDS[op_name(node)], (low, high), strict=True):
            if isinstance(name, str) and isinstance(value, int):
                set_argument(node, name, float(value))
