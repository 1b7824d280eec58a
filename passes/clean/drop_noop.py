"""Drop ops that hand back what they were given."""

from __future__ import annotations

import sys

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.alias_analysis import alias_sets, joins_output, written_sets
from fxopt.ir.op_table import Trait, arguments, has
from fxopt.ir.printer import op_name
from fxopt.ir.shape_inference import size_expressions


@graph_pass
def drop_noop(program: Program) -> None:
    """Drop ops that return their input unchanged, such as dropout in evaluation mode.

    Also casts and reshapes to what already is, a transpose or permutation that the one before it undoes, multiplication
    and division by 1, and relu of relu or whatever else is idempotent.
    A copy is kept where memory is written to, and where an output would come to share memory with an input, a weight or
    another output.

    before:
        %x : f32[2,4]
        %y = aten.dropout(%x, 0.5, False)
        %z = aten.relu(%y)
        return %z
    after:
        %x : f32[2,4]
        %z = aten.relu(%x)
        return %z
    """
    touched = _written_sets(program)
    for node in list(program.graph.nodes):
        if node.op != "call_function":
            continue
        if has(node, Trait.DROPOUT) and arguments(node)["train"]:
            program.skip(node, "train=True: removing it would change the output")
            continue
        source = _same_as(node)
        if source is None or _cuts_other_sizes(program, node):
            continue
        if touched and not touched.isdisjoint({node, source}):
            program.skip(node, "the memory it copies or shares is written to in place")
        elif joins_output(program, node, source):
            program.skip(node, "an output would share memory with an input, a weight or another output")
        else:
            program.replace(node, source)


def _same_as(node: fx.Node) -> fx.Node | None:
    """The node whose value this one repeats; None if it does something."""
    name = op_name(node)
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or "val" not in node.meta or not isinstance(node.meta["val"], torch.Tensor):
        return None
    if has(node, Trait.DROPOUT):
        return source
    if has(node, Trait.SAME_VALUE):
        return source if _same_strides(node, source) else None
    if has(node, Trait.CAST):
        return source if _same_type(node, source) and _same_strides(node, source) else None
    if has(node, Trait.SAME_SHAPE_IS_SAME_VALUE):
        return source if _same_shape(node, source) else None
    if has(node, Trait.IDEMPOTENT) and source.target is node.target and _same_rest(node, source):
        return source
    if name in ("aten.mul.Tensor", "aten.div.Tensor") and arguments(node)["other"] == 1:
        return source if _same_type(node, source) else None  # x + 0 is not listed: -0.0 + 0 is +0.0, and 1/x would tell
    if name == "aten.pad":
        return source if not any(arguments(node)["pad"]) else None
    if name in ("aten.permute", "aten.transpose.int", "aten.t"):
        return _undone(node, source)
    return None


def _same_rest(node: fx.Node, source: fx.Node) -> bool:
    """Whether all arguments but the first are the same."""
    return [*arguments(node).values()][1:] == [*arguments(source).values()][1:]


def _cuts_other_sizes(program: Program, node: fx.Node) -> bool:
    """Whether it is a slice that is whole for the example, and might cut an input of another size."""
    if op_name(node) != "aten.slice.Tensor":
        return False
    call = arguments(node)
    size, end = call["self"].meta["val"].shape[call["dim"]], call["end"]
    if isinstance(size, int):
        return False
    if call["start"] not in (None, 0):
        return True
    if isinstance(end, fx.Node):
        return size_expressions([end.meta["val"]]) != size_expressions([size])
    longest = program.ranges.get(str(size), (0, None))[1] or sys.maxsize
    return end is not None and bool(end < longest)


def _undone(node: fx.Node, source: fx.Node) -> fx.Node | None:
    order = _permutation(node)
    if order == sorted(order):
        return source
    before = source.args[0] if source.op == "call_function" and source.args else None
    if op_name(source) in ("aten.permute", "aten.transpose.int", "aten.t") and isinstance(before, fx.Node):
        first = _permutation(source)
        if [first[i] for i in order] == list(range(len(first))):
            return before
    return None


def _permutation(node: fx.Node) -> list[int]:
    rank = max(node.meta["val"].dim(), 1)  # torch takes dim 0 of a scalar too
    call = arguments(node)
    if op_name(node) == "aten.permute":
        return [d % rank for d in call["dims"]]
    order = list(range(rank))
    a, b = (call["dim0"] % rank, call["dim1"] % rank) if op_name(node) == "aten.transpose.int" else (0, rank - 1)
    order[a], order[b] = order[b], order[a]
    return order


def _same_type(a: fx.Node, b: fx.Node) -> bool:
    x, y = a.meta["val"], b.meta["val"]
    return bool(x.dtype == y.dtype and x.device == y.device and x.layout == y.layout)


def _same_shape(a: fx.Node, b: fx.Node) -> bool:
    """Whether the shapes are the same expressions: two dynamic sizes that only may be equal are not."""
    x, y = a.meta["val"], b.meta["val"]
    return size_expressions(x.shape) == size_expressions(y.shape)


def _same_strides(a: fx.Node, b: fx.Node) -> bool:
    """Whether the memory is laid out alike: a view after a copy may need the copy's strides."""
    x, y = a.meta["val"], b.meta["val"]
    return _same_shape(a, b) and size_expressions(x.stride()) == size_expressions(y.stride())


def _written_sets(program: Program) -> set[fx.Node]:
    """All nodes that may share memory with something that is written to."""
    sets = alias_sets(program.graph)
    roots = written_sets(program.graph, sets)
    return {node for node in program.graph.nodes if sets[node] in roots}
