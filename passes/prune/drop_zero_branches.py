"""Drop additions of a branch that is zero for all inputs."""

from __future__ import annotations

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.alias_analysis import alias_sets, joins_output, written, written_sets
from fxopt.ir.dead_code import remove_dead
from fxopt.ir.op_table import Trait, arguments, has, lookup
from fxopt.ir.printer import op_name, type_text
from fxopt.ir.shape_inference import size_expressions
from fxopt.passes.prune.known.values import known_values

_SUMS = ("aten.add.Tensor", "aten.sub.Tensor", "aten.add_.Tensor", "aten.sub_.Tensor")


@graph_pass(assumes_finite=True)
def drop_zero_branches(program: Program) -> None:
    """Replace a sum by one operand where the other is zero for every input.

    Zeros are derived from the weights: a residual branch is zero if its last weight and bias, or batch norm's gamma and
    beta, are. The branch itself, which nothing reads then, goes with it: zeroing it prunes a block of the network.
    A zero may change its sign. A sum that broadcasts or casts stays, and so does one whose removal would let outputs, or
    memory that is written to, be shared.

    before:
        %x : f32[2,4]
        %w = param "fc.weight" : f32[4,4]
        %h = aten.linear(%x, %w)
        %zero = aten.mul.Tensor(%h, 0)
        %branch = aten.relu(%zero)
        %y = aten.add.Tensor(%x, %branch)
        %z = aten.relu(%y)
        return %z
    after:
        %x : f32[2,4]
        %z = aten.relu(%x)
        return %z
    """
    sums = list(program.find(*_SUMS))
    known = known_values(program) if sums else {}
    dropped = False
    for node in sums:
        other = _left_alone(node, known)
        if other is None:
            continue
        reason = _declined(program, node, other)
        if reason:
            program.skip(node, f"an operand is zero, but {reason}")
            continue
        if written(node):  # readers of the sum now read ``other``, maybe after its memory was overwritten
            known.pop(other, None)
        program.replace(node, other)
        dropped = True
    if dropped:
        remove_dead(program)


def _left_alone(node: fx.Node, known: dict[fx.Node, torch.Tensor]) -> fx.Node | None:
    """The operand that a sum equals because the other one is zero; None where neither is."""
    call = arguments(node)
    first, second = call["self"], call["other"]
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return None
    if _is_zero(second, known):
        return first
    exact = op_name(node).startswith("aten.add") and call["alpha"] == 1
    return second if exact and _is_zero(first, known) else None


def _is_zero(node: fx.Node, known: dict[fx.Node, torch.Tensor]) -> bool:
    return node in known and not bool(known[node].count_nonzero())  # an unknown cell is NaN, which counts


def _declined(program: Program, node: fx.Node, other: fx.Node) -> str | None:
    result, value = node.meta["val"], other.meta["val"]
    if size_expressions(result.shape) != size_expressions(value.shape):
        return f"the sum broadcasts the other one, {type_text(value)}, to {type_text(result)}"
    if (result.dtype, result.device, result.layout) != (value.dtype, value.device, value.layout):
        return f"the sum casts the other one, {type_text(value)}, to {type_text(result)}"
    if written(node):
        return None if other is node.args[0] else "it is the one that the sum is written into"
    sets = alias_sets(program.graph)
    dirty = written_sets(program.graph, sets)
    if sets[node] in dirty or sets[other] in dirty:
        return "the memory of the other one or of the sum is written to in place"
    if joins_output(program, node, other):
        return "an output would share memory with an input, a weight or another output"
    views = any(sets[n] is sets[node] and _reads_strides(n) for n in program.graph.nodes)
    if views and size_expressions(result.stride()) != size_expressions(value.stride()):
        return "a view reads the sum, and the other one's memory is laid out differently"
    return None


def _reads_strides(node: fx.Node) -> bool:
    """Whether a call may need the strides of its operand, as any op may that the table does not know."""
    return node.op == "call_function" and (lookup(node) is None or has(node, Trait.BOUND_TO_STRIDES))
