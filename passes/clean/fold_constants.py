"""Compute what depends on weights and constants alone."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_doc import Doc
from annotated_types import Ge
from torch import fx
from torch.utils import _pytree as pytree

from fxopt import Program, graph_pass
from fxopt.ir.alias_analysis import alias_sets, written, written_sets
from fxopt.ir.op_table import arguments, family
from fxopt.ir.printer import op_name

_FILLS = {
    "aten.new_zeros": 0, "aten.zeros_like": 0, "aten.new_ones": 1, "aten.ones_like": 1, "aten.new_full": None,
    "aten.full_like": None,
}  # fmt: skip
_LEFT = ("quant", "random", "check", "size", "mutate")


@graph_pass
def fold_constants(
    program: Program,
    *,
    max_growth: Annotated[
        int, Ge(0), Doc("Bytes by which a stored result may be larger than the weights it is made of.")
    ] = 65536,
) -> None:
    """Evaluate the subgraphs that depend on weights and constants alone, and store the results.

    A result is stored where it is at most ``max_growth`` bytes larger than the weights it is made of and that nothing
    else reads; what merely repeats or fills (expand, full, arange) would otherwise blow up the file. Quantize and
    dequantize ops of weights stay, as do ops that draw random numbers.

    before:
        %x : f32[2,4]
        %w = param "fc.weight" : f32[4,4]
        %s = aten.mul.Tensor(%w, 2)
        %y = aten.linear(%x, %s)
        return %y
    after:
        %x : f32[2,4]
        %w = param "mul" : f32[4,4]
        %y = aten.linear(%x, %w)
        return %y
    """
    _fill_without_example(program)
    sets = alias_sets(program.graph)
    filled = _filled_first(program, sets)
    constant = _constant_nodes(program, sets, filled)
    kept = {sets[n] for n in constant if n.op == "get_attr" and any(user not in constant for user in n.users)}
    shown = {sets[out] for out in program.outputs() if isinstance(out, fx.Node)}
    values: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node in constant:
            values[node] = _value(program, node, values)
    for node in constant:
        if node.op != "call_function" or not isinstance(values[node], torch.Tensor):
            continue
        if sets[node] in filled or all(user in constant for user in node.users):
            continue  # only the last of a chain is stored
        weights = {sets.get(n, n): _bytes(program.tensor(n)) for n in _weights_of(node)}  # some were stored just now
        growth = _bytes(values[node]) - sum(size for weight, size in weights.items() if weight not in kept)
        if growth > max_growth:
            program.skip(node, f"storing it would add {growth:,} bytes, more than max_growth={max_growth:,}")
            continue
        if sets[node] in shown:
            program.skip(node, "an output shares its memory: stored, the caller would be handed the weight itself")
            continue
        name = f"{node.name}_value" if not node.name.isidentifier() else node.name
        tensor = values[node].detach().clone(memory_format=torch.contiguous_format)
        learned = any(isinstance(program.tensor(source), torch.nn.Parameter) for source in _weights_of(node))
        program.replace(node, program.add_tensor(name, tensor, node, learned=learned))
    for node in [n for n in constant if sets[n] in filled and sets[n] not in shown and not n._erased]:
        readers = [user for user in node.users if sets[user] is not sets[node]]
        if readers:  # whatever it adds: writes in place are what backends cannot have
            stored = program.add_tensor(node.name, values[node].detach().clone(), readers[0])
            for user in readers:
                user.replace_input_with(node, stored)


def _fill_without_example(program: Program) -> None:
    """Let a tensor of one number depend on its size alone, where only its dtype is that of a computed one."""
    for node in program.find(*_FILLS):
        value, call = node.meta["val"], arguments(node)
        number = _FILLS[op_name(node)]
        if any(not isinstance(n, int) for n in value.shape) or call.get("layout") not in (None, torch.strided):
            continue
        fill = call["fill_value"] if number is None else number
        if isinstance(fill, fx.Node):
            continue
        options = {"dtype": value.dtype, "device": value.device}
        with program.graph.inserting_before(node):
            full = program.graph.call_function(torch.ops.aten.full.default, (list(value.shape), fill), options)
        full.meta["val"] = value
        program.replace(node, full)


def _constant_nodes(program: Program, sets: dict[fx.Node, fx.Node], filled: set[fx.Node]) -> dict[fx.Node, None]:
    """Calls that depend on no input and may be computed once; in order, weights too.

    Memory that is written to counts if it is one of the ``filled``.
    """
    dirty = written_sets(program.graph, sets) - filled
    found: dict[fx.Node, None] = {}
    for node in program.graph.nodes:
        if sets[node] in dirty:
            continue
        if node.op == "get_attr":
            if program.tensor(node) is not None:
                found[node] = None
            continue
        kind = family(node)
        left = kind is None or (kind in _LEFT and not (kind == "mutate" and written(node)))
        if not left and all(n in found for n in node.all_input_nodes):
            found[node] = None
    return found


def _filled_first(program: Program, sets: dict[fx.Node, fx.Node]) -> set[fx.Node]:
    """Memory that is written to, depends on no input and is complete before anybody reads it, by its alias set.

    Such as a mask that is filled piece by piece.
    """
    dirty = written_sets(program.graph, sets)
    constant: set[fx.Node] = set()
    for node in program.graph.nodes:
        known = node.op == "get_attr" or (node.op == "call_function" and family(node) not in (None, "random", "check"))
        if known and all(n in constant for n in node.all_input_nodes):
            constant.add(node)
    filled = set(dirty)
    last = {}
    for i, node in enumerate(program.graph.nodes):
        for target in written(node):
            last[sets[target]] = i
    for i, node in enumerate(program.graph.nodes):
        root = sets[node]
        if root in filled and (node not in constant or node.op != "call_function"):
            filled.discard(root)
        for operand in node.all_input_nodes:
            if sets[operand] in filled and root is not sets[operand] and i < last[sets[operand]]:
                filled.discard(sets[operand])
    return filled


def _value(program: Program, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    if node.op == "get_attr":
        return program.tensor(node)
    swap = lambda a: values[a] if isinstance(a, fx.Node) else a  # noqa: E731
    args, kwargs = pytree.tree_map(swap, (node.args, dict(node.kwargs)))
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _weights_of(node: fx.Node) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    todo = [node]
    while todo:
        todo += [n for n in todo.pop().all_input_nodes if n not in seen and not seen.add(n)]  # type: ignore[func-returns-value]
    return {n for n in seen if n.op == "get_attr"}


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0
