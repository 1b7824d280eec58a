"""Alias analysis by op schemas; and functionalization of in-place ops where that is safe."""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import Trait, has, running_statistics
from fxopt.ir.program import Program, attribute


def alias_sets(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """For every node a representative of the set of nodes that may share memory with it."""
    parent: dict[fx.Node, fx.Node] = {node: node for node in graph.nodes}

    def find(node: fx.Node) -> fx.Node:
        while parent[node] is not node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    weights: dict[int, fx.Node] = {}
    for node in graph.nodes:
        for source in _aliased(node):
            parent[find(node)] = find(source)
        if node.op == "get_attr":  # a tied weight is one tensor under several names
            tensor = attribute(graph.owning_module, str(node.target))  # type: ignore[arg-type]
            parent[find(node)] = find(weights.setdefault(id(tensor), node))
    return {node: find(node) for node in graph.nodes}


def _aliased(node: fx.Node) -> list[fx.Node]:
    if node.op != "call_function":
        return []
    if node.target is operator.getitem:
        return [_first_of_result(node)]
    if not hasattr(node.target, "_schema"):
        return list(node.all_input_nodes)
    if has(node, Trait.DROPOUT):  # its schema promises a new tensor, but in evaluation it returns its operand
        return [node.args[0]]  # type: ignore[list-item]
    aliases = _aliases(node.target)
    return _operands(node, aliases.shared) if aliases.returned else []


def _first_of_result(item: fx.Node) -> fx.Node:
    """What an item of a call's results shares memory with: the call, or where each result is new, the first item like it."""
    call: Any = item.args[0]
    returns = call.target._schema.returns if hasattr(call.target, "_schema") else ()
    if len(returns) < 2 or any(r.alias_info for r in returns):
        return call
    return next(user for user in call.users if user.target is operator.getitem and user.args == item.args)


@dataclass(frozen=True)
class _Aliases:
    """What a schema says of memory: arguments that share or are written, by place and name, and whether a result shares."""

    shared: tuple[tuple[int, str], ...]
    written: tuple[tuple[int, str], ...]
    returned: bool


@functools.cache
def _aliases(target: Any) -> _Aliases:
    schema = target._schema
    infos = [(i, a.name, a.alias_info) for i, a in enumerate(schema.arguments) if a.alias_info]
    return _Aliases(
        tuple((i, name) for i, name, _ in infos),
        tuple((i, name) for i, name, info in infos if info.is_write),
        any(r.alias_info for r in schema.returns),
    )


def _operands(node: fx.Node, places: Iterable[tuple[int, str]]) -> list[fx.Node]:
    given = (node.args[i] if i < len(node.args) else node.kwargs.get(name) for i, name in places)
    return [operand for value in given for operand in _nodes(value)]


def _nodes(value: Any) -> list[fx.Node]:
    if isinstance(value, fx.Node):
        return [value]
    return [n for v in value for n in _nodes(v)] if isinstance(value, (list, tuple)) else []


def written(node: fx.Node) -> list[fx.Node]:
    """The operands that a node writes into."""
    if node.op != "call_function" or not hasattr(node.target, "_schema"):
        return []
    return _operands(node, _aliases(node.target).written)


def written_outside(program: Program) -> list[fx.Node]:
    """The inputs, weights and buffers whose memory a program writes into."""
    targets = [target for node in program.graph.nodes for target in written(node)]
    if not targets:
        return []
    sets = alias_sets(program.graph)
    roots = {sets[target] for target in targets}
    return [n for n in program.graph.nodes if n.op in ("placeholder", "get_attr") and sets[n] in roots]


def state_of(program: Program) -> set[int]:
    """The ``id`` of each tensor that a run may write into: what the graph writes, and the running statistics of norms."""
    nodes = [node for node in written_outside(program) if node.op == "get_attr"]
    nodes += [value for node in program.graph.nodes for value in running_statistics(node)]
    nodes += [n for node in program.graph.nodes if not _has_schema(node) for n in node.all_input_nodes]
    return {id(tensor) for node in nodes if (tensor := program.tensor(node)) is not None}


def _has_schema(node: fx.Node) -> bool:
    """Whether it is known what a node writes into."""
    return node.op != "call_function" or hasattr(node.target, "_schema") or not node.all_input_nodes


def written_sets(graph: fx.Graph, sets: Mapping[fx.Node, fx.Node]) -> set[fx.Node]:
    """Representatives of the sets of :func:`alias_sets` whose memory some node writes into."""
    return {sets[target] for node in graph.nodes for target in written(node)}


def joins_output(program: Program, node: fx.Node, other: fx.Node) -> bool:
    """Whether with ``other`` in place of ``node`` an output would newly share memory.

    That is memory of an input, a weight or another output.
    """
    mine = alias_set(program, node)
    outputs = {out for out in program.outputs() if isinstance(out, fx.Node)}
    if other in mine or mine.isdisjoint(outputs):
        return False
    its = alias_set(program, other)
    return not its.isdisjoint(outputs) or any(n.op in ("placeholder", "get_attr") for n in its)


def alias_set(program: Program, node: fx.Node) -> set[fx.Node]:
    """The nodes that may share memory with one: its set in :func:`alias_sets`, in time that grows with the set."""
    found = {node}
    todo = [node]
    while todo:
        at = todo.pop()
        readers = [*at.users, *(at.args[0].users if at.target is operator.getitem else ())]  # type: ignore[union-attr]
        near = [*_aliased(at), *(user for user in readers if at in _aliased(user))]
        if (tensor := program.tensor(at)) is not None:
            near += (n for n in program.graph.find_nodes(op="get_attr") if program.tensor(n) is tensor)
        todo += (new := set(near) - found)
        found |= new
    return found


def make_functional(program: Program) -> None:
    """Replace in-place ops by their functional twins wherever no other reader can see the write.

    before: %y = aten.relu_(%x); %z = aten.add(%x, %y)
    after:  %y = aten.relu(%x);  %z = aten.add(%y, %y)

    A write stays where another view of the same memory is read after it, or where it reaches an input or a weight. A
    slice of everything, which ``x[:, 0:] += y`` makes, is no other view.
    """
    for node in list(program.graph.nodes):
        if _is_whole(node):
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    sets = alias_sets(program.graph)
    members: dict[fx.Node, list[fx.Node]] = {}
    for node, root in sets.items():
        members.setdefault(root, []).append(node)
    for node in list(program.graph.nodes):
        targets = written(node)
        if len(targets) != 1 or targets[0] is not node.args[0]:
            continue
        operand, at = targets[0], order[node]
        twin = functional_twin(node.target)
        if twin is None or not is_private(node, members[sets[operand]], order, (operand,)):
            continue
        node.target = twin
        replacement = node
        if (source := _copied(node)) is not None:
            mine = source is operand or is_private(node, members[sets[source]], order)
            replacement = source if mine else node
        for user in list(operand.users):
            if order[user] > at:
                user.replace_input_with(operand, replacement)
        if replacement is not node:
            node.replace_all_uses_with(replacement)
            program.graph.erase_node(node)
    program.module.recompile()


def is_private(
    write: fx.Node, shared: Iterable[fx.Node], order: Mapping[fx.Node, int], own: Collection[fx.Node] = ()
) -> bool:
    """Whether only readers of the views ``own`` see a write into memory.

    ``shared`` are the nodes that may share the memory, ``order`` the positions of all nodes. Nothing else does if the memory
    is no input or weight, and no other view from before the write is read after it.
    """
    at = order[write]
    before = [node for node in shared if order[node] < at]
    if any(node.op in ("placeholder", "get_attr") for node in before):
        return False
    return not any(order[user] > at for node in before if node not in own for user in node.users)


def _is_whole(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is not torch.ops.aten.slice.Tensor:
        return False
    given: list[Any] = [*node.args[2:], *(None, None, 1)[len(node.args) - 2 :]]
    start, end, step = given
    unbounded = end is None or (isinstance(end, int) and end >= sys.maxsize)
    return unbounded and bool(start in (None, 0)) and bool(step == 1)


def _copied(node: fx.Node) -> fx.Node | None:
    """The source of a copy into memory of the same shape and dtype; None for any other call."""
    if node.target is not torch.ops.aten.copy.default or not isinstance(node.args[1], fx.Node):
        return None
    into, source = (n.meta.get("val") for n in node.args[:2])  # type: ignore[union-attr]
    if not isinstance(into, torch.Tensor) or not isinstance(source, torch.Tensor):
        return None
    return node.args[1] if into.shape == source.shape and into.dtype == source.dtype else None


def functional_twin(target: Any) -> torch._ops.OpOverload | None:
    """The op that returns as a new tensor what an in-place op writes; None if there is none with the same arguments."""
    namespace, _, name = target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    if packet is None or not name.endswith("_"):
        return None
    # the overload of the same name first; but pow_.Scalar is pow.Tensor_Scalar, as pow.Scalar has the number first
    names = sorted(packet.overloads(), key=lambda overload: overload != target._overloadname)
    twins = (getattr(packet, overload) for overload in names)
    return next((t for t in twins if not t._schema.is_mutable and _takes(t) == _takes(target)), None)


def _takes(target: Any) -> list[tuple[str, str]]:
    return [(argument.name, str(argument.type)) for argument in target._schema.arguments]
