"""One sweep from the outputs to the inputs, in which every linear asks for a factor in each of its input channels."""

from __future__ import annotations

import math

from torch import fx
from torch.utils import _pytree as pytree

from fxopt import Program
from fxopt.ir.alias_analysis import alias_sets, written_sets
from fxopt.ir.op_table import Trait, has
from fxopt.ir.printer import op_name
from fxopt.passes.quant.smoothing.needs import AS_IT_IS, Needs, is_real
from fxopt.passes.quant.smoothing.rules import carriers, divide, passes_on


def sweep(program: Program) -> Needs:
    """What every weight must be divided by so that every linear's input is divided; nothing is changed.

    ``columns`` has the labels of the factors of a linear weight's columns, ``values`` the needs of stored tensors. Both
    cancel out, for any factors above zero.
    """
    needs = Needs(program)
    sets = alias_sets(program.graph)
    dirty = written_sets(program.graph, sets)
    _find_takers(needs)
    for node in reversed(program.graph.nodes):
        if node.op == "output":
            for value in node.all_input_nodes:
                needs.require(value, AS_IT_IS, node)
        elif node.op != "get_attr":
            _send_back(needs, node, written_to=sets[node] in dirty)
    for weight, need in needs.values.items():
        if sets[weight] in dirty:
            needs.pin(need, _WRITTEN)
    needs.pin_shared_weights()
    return needs


_WRITTEN = "what it reads comes from a value that is written to in place"


def _find_takers(needs: Needs) -> None:
    for node in needs.program.graph.nodes:
        if node.op == "get_attr" and is_real(node):
            if math.prod(needs.shape(node)) > 1:
                needs.takers.add(node)
        elif node.op == "call_function":
            found = carriers(needs, node)
            follows = all(passes_on(user, node) or has(user, Trait.READS_FORM_ONLY) for user in node.users)
            if follows and not isinstance(found, str) and all(n in needs.takers for n in found):
                needs.takers.add(node)


def _send_back(needs: Needs, node: fx.Node, *, written_to: bool) -> None:
    need = needs.values.pop(node, None)
    if node.op == "placeholder":
        if need is not None:
            needs.pin(need, "what it reads comes from an input of the model")
        return
    if has(node, Trait.READS_FORM_ONLY):
        return
    found = _WRITTEN if written_to else carriers(needs, node)
    others = [n for n in pytree.tree_leaves((node.args, dict(node.kwargs))) if isinstance(n, fx.Node)]
    weight = node.args[1] if op_name(node) == "aten.linear" else None
    if isinstance(found, str):
        if need is not None:
            needs.pin(need, found)
    else:
        if need is not None:
            for operand, part in divide(needs, node, need):
                needs.require(operand, part, needs.asker(node), rows=operand is weight)
        for operand in found:
            if operand in others:  # not so if the node is one of the results of an op with these operands
                others.remove(operand)
    if (read := readable_weight(needs.program, node)) is not None:
        others.remove(node.args[0])  # type: ignore[arg-type]
        needs.require(node.args[0], needs.label_columns(read), node)  # type: ignore[arg-type]
    for operand in others:
        needs.require(operand, AS_IT_IS, node, rows=operand is weight)


def readable_weight(program: Program, node: fx.Node) -> fx.Node | None:
    """The weight of a linear whose input can be divided, because its columns can be multiplied; None for any other node."""
    if op_name(node) != "aten.linear":
        return None
    source, weight = node.args[:2]
    tensor = program.tensor(weight)
    stored = tensor is not None and tensor.dim() == 2 and tensor.dtype.is_floating_point
    return weight if stored and isinstance(source, fx.Node) and isinstance(weight, fx.Node) else None
