"""Decomposition of an op, for a backend that cannot lower it."""

from __future__ import annotations

import contextlib
import operator
from typing import Any

import sympy
import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from fxopt.ir.op_table import family
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program

_TRACED = (torch.Tensor, torch.SymInt)
"""What a trace must know the origin of; other arguments are constants."""


_READS_SIZES = "aten.fft_"
"""Ops whose decomposition in C++ reads sizes as numbers, and fixes a batch that may vary; that in Python does not."""


def decomposed(node: fx.Node, decompositions: dict[Any, Any]) -> list[Any]:
    """The ops that a call decomposes into by a table, found by running it on fake tensors.

    Raises whatever the run raises.
    """
    traced = _traced(node, decompositions)
    calls = [n.target for n in traced.graph.nodes if n.op == "call_function" and family(n) not in ("check", "size")]
    return [target for target in dict.fromkeys(calls) if isinstance(target, torch._ops.OpOverload)]


def can_decompose(node: fx.Node) -> bool:
    """Whether :func:`decompose` takes a call: one that is functional, of tensors and sizes, and gives tensors."""
    operands = all(isinstance(n.meta.get("val"), _TRACED) for n in node.all_input_nodes)
    results = pytree.tree_leaves(node.meta.get("val"))
    return operands and all(isinstance(value, torch.Tensor) for value in results) and not _is_mutable(node.target)


def decompose(program: Program, node: fx.Node, decompositions: dict[Any, Any]) -> list[fx.Node] | None:
    """Put the ops that a call decomposes into in its place, and return their nodes; None where one of them writes in place.

    The node of its value has its name and its line, and the others names that begin with it. The shapes in
    ``meta["val"]`` must be those of the graph as it stands. Raises whatever the run on fake tensors raises.
    """
    traced = _traced(node, decompositions)
    if any(_is_mutable(inner.target) for inner in traced.graph.nodes):  # as one that fills a random mask
        return None
    place: dict[fx.Node, Any] = dict(zip(traced.graph.find_nodes(op="placeholder"), _operands(node), strict=True))
    made = []
    for inner in traced.graph.nodes:
        if inner.op == "get_attr":
            place[inner] = program.add_tensor(
                f"{node.name}_{inner.target}", getattr(traced, inner.target), node, learned=False
            )
        elif inner.op == "call_function":
            place[inner] = _size_by_inputs(program, inner, node)
            if place[inner] is None:
                with program.graph.inserting_before(node):
                    place[inner] = program.graph.node_copy(inner, place.__getitem__)
                place[inner]._rename(f"{node.name}_{inner.name}")
                place[inner].meta = {
                    key: node.meta[key] for key in ("stack_trace", "nn_module_stack") if key in node.meta
                }
                place[inner].meta["val"] = inner.meta["val"]
                made.append(place[inner])
    result: Any = fx.map_arg(traced.graph.output_node().args[0], place.__getitem__)
    if isinstance(result, fx.Node):
        _give(program, node, result, made)
    else:
        for user in list(node.users):
            assert user.target is operator.getitem
            _give(program, user, result[user.args[1]], made)
        program.graph.erase_node(node)
    return made


def _give(program: Program, node: fx.Node, result: fx.Node, made: list[fx.Node]) -> None:
    """Let the readers of a node read its value elsewhere, under its name where that is a node of ``made``."""
    name = node.name
    node.replace_all_uses_with(result)
    program.graph.erase_node(node)
    if result in made:
        result.name = name  # which fx's own way to rename takes for taken
        result.graph._graph_namespace._rename_object(result, name)


def _size_by_inputs(program: Program, size: fx.Node, before: fx.Node) -> fx.Node | None:
    """A size that a call gives or computes, as sums and products of sizes of inputs; None where it is nothing such.

    A runtime need not count the elements of a value then, for which none has an op.
    """
    if not isinstance(size.meta.get("val"), torch.SymInt):
        return None
    found = _computed(program, size.meta["val"].node.expr, before)
    return found if isinstance(found, fx.Node) else None


def _computed(program: Program, wanted: sympy.Expr, before: fx.Node) -> fx.Node | int | None:
    """An expression over sizes, read from inputs and computed in front of a node."""
    if wanted.is_Integer:
        return int(wanted)
    if (found := _size_of_an_input(program, wanted)) is not None:
        return found
    compute = {sympy.Add: operator.add, sympy.Mul: operator.mul}.get(wanted.func)
    if compute is None:
        return None
    left, right = (_computed(program, part, before) for part in wanted.as_two_terms())
    if left is None or right is None:
        return None
    with program.graph.inserting_before(before):
        made = program.graph.call_function(compute, (left, right))
    values = [part.meta["val"] if isinstance(part, fx.Node) else part for part in (left, right)]
    made.meta["val"] = compute(*values)
    return made


def _size_of_an_input(program: Program, wanted: sympy.Expr) -> fx.Node | None:
    """The size of an input, read from there, and once; None where it is of no input."""
    read = torch.ops.aten.sym_size.int
    for source in program.inputs():
        value = source.meta.get("val")
        for dim, have in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            if isinstance(have, torch.SymInt) and have.node.expr == wanted:
                known = (n for n in source.users if n.target is read and n.args == (source, dim))
                if (found := next(known, None)) is None:
                    with program.graph.inserting_after(program.inputs()[-1]):
                        found = program.graph.call_function(read, (source, dim))
                    found.meta["val"] = have
                else:
                    program.inputs()[-1].append(found)
                return found
    return None


def _operands(node: fx.Node) -> list[fx.Node]:
    """The operands that are values of the graph, one for each time they are read."""
    return [leaf for leaf in pytree.tree_leaves((node.args, dict(node.kwargs))) if isinstance(leaf, fx.Node)]


def _traced(node: fx.Node, decompositions: dict[Any, Any]) -> fx.GraphModule:
    """The ops of a call as a graph, whose inputs are those of its operands that are tensors and sizes."""
    args, kwargs = pytree.tree_map_only(fx.Node, lambda n: n.meta["val"], (node.args, dict(node.kwargs)))
    leaves, spec = pytree.tree_flatten((args, kwargs))
    inputs = [leaf for leaf in leaves if isinstance(leaf, _TRACED)]

    def call(*given: Any) -> Any:
        rest = iter(given)
        some = [next(rest) if isinstance(leaf, _TRACED) else leaf for leaf in leaves]
        some_args, some_kwargs = pytree.tree_unflatten(some, spec)
        return node.target(*some_args, **some_kwargs)  # type: ignore[operator]

    # for what the call makes itself, as a range of indices
    mode = detect_fake_mode(inputs) or detect_fake_mode(node.meta.get("val")) or contextlib.nullcontext()
    in_python = enable_python_dispatcher() if op_name(node).startswith(_READS_SIZES) else contextlib.nullcontext()
    with mode, in_python:
        return make_fx(call, decomposition_table=decompositions)(*inputs)


def _is_mutable(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable
