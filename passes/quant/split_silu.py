"""Write silu as a product with a sigmoid."""

from __future__ import annotations

import torch

from fxopt import Program, graph_pass


@graph_pass
def split_silu(program: Program) -> None:
    """Decompose silu(x) into x · sigmoid(x): both have integer kernels, silu has none.

    before:
        %x : f32[2,4]
        %y = aten.silu(%x)
        return %y
    after:
        %x : f32[2,4]
        %g = aten.sigmoid(%x)
        %y = aten.mul.Tensor(%x, %g)
        return %y
    """
    for node in program.find("aten.silu"):
        gate = program.call(torch.ops.aten.sigmoid.default, node.args[0], like=node)
        program.replace(node, program.call(torch.ops.aten.mul.Tensor, node.args[0], gate, like=gate))
