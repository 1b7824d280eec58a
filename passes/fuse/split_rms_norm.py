"""RMS norm as a mean of squares and products."""

from __future__ import annotations

from typing import Any

import torch

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments
from fxopt.numerics.float64 import default_epsilon

aten = torch.ops.aten


@graph_pass
def split_rms_norm(program: Program) -> None:
    """Write an RMS norm as x / sqrt(mean(x²) + eps) · weight, for runtimes that have no such op.

    They know this form and fuse it where they have a kernel. As in torch, half precision is normalised in float32, and
    eps is that of the dtype where none is given.

    before:
        %x : f32[2,4]
        %w = param "norm.weight" : f32[4]
        %y = aten.rms_norm(%x, [4], %w, 1e-06)
        return %y
    after:
        %x : f32[2,4]
        %w = param "norm.weight" : f32[4]
        %a = aten.mul.Tensor(%x, %x)
        %b = aten.mean.dim(%a, [-1], True)
        %c = aten.add.Scalar(%b, 1e-06)
        %d = aten.rsqrt(%c)
        %e = aten.mul.Tensor(%x, %d)
        %y = aten.mul.Tensor(%e, %w)
        return %y
    """
    for node in program.find("aten.rms_norm"):
        call = arguments(node)
        x, weight = call["input"], call["weight"]
        dtype = x.meta["val"].dtype
        half = dtype in (torch.float16, torch.bfloat16)
        eps = call["eps"] if call["eps"] is not None else default_epsilon(dtype)

        def insert(target: Any, *args: Any, before: Any = node) -> Any:
            with program.graph.inserting_before(before):
                made = program.graph.call_function(target, args)
            made.meta["stack_trace"] = before.meta.get("stack_trace")
            return made

        if half:
            x = insert(aten.to.dtype, x, torch.float32)
        dims = [-1 - i for i in range(len(call["normalized_shape"]))]
        squares = insert(aten.mean.dim, insert(aten.mul.Tensor, x, x), dims, True)
        scale = insert(aten.rsqrt.default, insert(aten.add.Scalar, squares, eps))
        result = insert(aten.mul.Tensor, x, scale)
        if weight is not None:
            result = insert(aten.mul.Tensor, result, weight)
        if half:
            result = insert(aten.to.dtype, result, dtype)
        program.replace(node, result)
