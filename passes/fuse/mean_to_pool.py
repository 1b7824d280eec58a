"""Write a mean over all positions of a map as a global average pool."""

from __future__ import annotations

import torch

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments


@graph_pass
def mean_to_pool(program: Program) -> None:
    """Rewrite the mean over height and width of an [N,C,H,W] tensor as global average pooling.

    Runtimes have integer kernels for global average pooling, and none for a mean over dims.

    before:
        %x : f32[2,3,8,8]
        %y = aten.mean.dim(%x, [2, 3])
        return %y
    after:
        %x : f32[2,3,8,8]
        %y = aten.adaptive_avg_pool2d(%x, [1, 1])
        %z = aten.flatten.using_ints(%y, 1)
        return %z
    """
    for node in program.find("aten.mean.dim"):
        call = arguments(node)
        value = call["self"].meta["val"]
        dims = sorted(d % value.dim() for d in call["dim"] or ())
        if value.dim() != 4 or dims != [2, 3] or call["dtype"] is not None:
            continue  # a mean over other dims is no pool, and nobody expects it to be one
        pool = program.call(torch.ops.aten.adaptive_avg_pool2d.default, call["self"], [1, 1], like=node)
        if not call["keepdim"]:
            pool = program.call(torch.ops.aten.flatten.using_ints, pool, 1, like=pool)
        program.replace(node, pool)
