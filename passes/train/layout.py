"""The layout in memory that convolutions train fastest in."""

from __future__ import annotations

import torch
from torch import fx

from fxopt.ir.memory_format import runs_in_any_layout
from fxopt.ir.op_table import DIRECT, arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program


def use_channels_last(program: Program, module: torch.nn.Module) -> None:
    """Store the kernels of 2d convolutions with their channels innermost; images follow them through the graph.

    oneDNN's kernels for this layout need no reordering of each image, and training takes about two thirds of the time.
    A program with an op that is bound to a layout, or whose gradient is wrong in this one, stays in the one it has.
    """
    if not runs_in_any_layout(program) or any(map(_writes_beyond, program.graph.nodes)):
        return
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _writes_beyond(node: fx.Node) -> bool:
    """Whether torch's gradient of a convolution corrupts memory in this layout, as it does on processors with AVX2 alone.

    In torch 2.13 that is so of pointwise ones of stride 2 with fewer than eight inputs, which pruning makes.
    """
    if op_name(node) not in DIRECT:
        return False
    call = arguments(node)
    _, inputs, *kernel = call["weight"].meta["val"].shape
    return len(kernel) == 2 and set(kernel) == {1} and inputs < 8 and set(call["stride"]) != {1}
