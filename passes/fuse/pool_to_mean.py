"""Write a global average pool as a mean over all positions."""

from __future__ import annotations

import torch

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments


@graph_pass
def pool_to_mean(program: Program) -> None:
    """Rewrite average pooling to an output size of one as the mean over all positions.

    Exporters take adaptive pools apart by the strides of their input, and come to ops that they cannot write where the
    channels lie last in memory. A mean has no such trouble.

    before:
        %x : f32[2,3,8,8]
        %y = aten.adaptive_avg_pool2d(%x, [1, 1])
        return %y
    after:
        %x : f32[2,3,8,8]
        %y = aten.mean.dim(%x, [-1, -2], True)
        return %y
    """
    for rank in (1, 2, 3):
        for node in program.find(f"aten.adaptive_avg_pool{rank}d"):
            call = arguments(node)
            if list(call["output_size"]) == [1] * rank:
                dims = [-d for d in range(1, rank + 1)]
                mean = program.call(torch.ops.aten.mean.dim, call["self"], dims, True, like=node)
                program.replace(node, mean)
