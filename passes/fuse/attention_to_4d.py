"""Write attention of any rank as attention of [N,H,L,E]."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments


@graph_pass(assumes_finite=True)  # torch's kernels of attention differ in what they make of NaN and infinities
def attention_to_4d(program: Program) -> None:
    """Reshape scaled dot product attention of any other rank to four dims, [N,H,L,E].

    The dims before the last three are merged, a missing one is added; runtimes have no form for other ranks. Declined
    where the merged dims can vary in more than one size, or where they have to be broadcast.

    before:
        %q : f32[2,5,4,6,8]
        %y = aten.scaled_dot_product_attention(%q, %q, %q)
        return %y
    after:
        %q : f32[2,5,4,6,8]
        %a = aten.flatten.using_ints(%q, 0, 1)
        %y = aten.scaled_dot_product_attention(%a, %a, %a)
        %z = aten.unflatten.int(%y, 0, [2, 5])
        return %z
    """
    for node in program.find("aten.scaled_dot_product_attention"):
        shape = node.meta["val"].shape
        if len(shape) == 4:
            continue
        call = arguments(node)
        operands = {name: call[name] for name in ("query", "key", "value")}
        if isinstance(call["attn_mask"], fx.Node) and call["attn_mask"].meta["val"].dim() > 3:
            operands["attn_mask"] = call["attn_mask"]  # one of fewer dims is broadcast from the right
        if reason := _declined(shape[: max(0, len(shape) - 3)], operands):
            program.skip(node, f"attention of rank {len(shape)} stays: {reason}")
            continue
        merged = {operand: _merged(program, operand, len(shape)) for operand in operands.values()}
        args = [merged.get(a, a) if isinstance(a, fx.Node) else a for a in node.args]
        kwargs = {name: merged.get(a, a) if isinstance(a, fx.Node) else a for name, a in node.kwargs.items()}
        result = program.call(node.target, *args, like=node, **kwargs)
        program.replace(node, _restored(program, result, shape))


def _declined(leading: Any, operands: dict[str, fx.Node]) -> str | None:
    """Why the leading dims cannot be merged; None if they can."""
    if sum(not isinstance(size, int) for size in leading) > 1:
        return "more than one of its leading sizes can vary"
    for name, operand in operands.items():
        shape = operand.meta["val"].shape
        if list(shape[: max(0, len(shape) - 3)]) != list(leading):
            return f"the leading sizes of its {name} are broadcast"
    return None


def _merged(program: Program, operand: fx.Node, rank: int) -> fx.Node:
    """The operand with one dim in place of all before the last three."""
    if rank > 4:
        return program.call(torch.ops.aten.flatten.using_ints, operand, 0, rank - 4, like=operand)
    for _ in range(4 - rank):
        operand = program.call(torch.ops.aten.unsqueeze.default, operand, 0, like=operand)
    return operand


def _restored(program: Program, result: fx.Node, shape: Any) -> fx.Node:
    """The result in the shape that attention had."""
    if len(shape) > 4:
        sizes = [size if isinstance(size, int) else -1 for size in shape[: len(shape) - 3]]
        return program.call(torch.ops.aten.unflatten.int, result, 0, sizes, like=result)
    for _ in range(4 - len(shape)):
        result = program.call(torch.ops.aten.squeeze.dim, result, 0, like=result)
    return result
