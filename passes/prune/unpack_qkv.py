"""Give query, key and value linear layers of their own."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.alias_analysis import alias_sets, written_sets
from fxopt.ir.op_table import Trait, arguments, named, set_argument
from fxopt.ir.printer import op_name

_VIEWS = {"aten.view": "size", "aten.reshape": "shape", "aten._unsafe_view": "size", "aten.unflatten.int": "sizes"}
_MOVES = {
    "aten.permute", "aten.transpose.int", "aten.unsqueeze", "aten.squeeze.dim", "aten.squeeze.dims", "aten.movedim.int",
    "aten.movedim.intlist", *named(Trait.SAME_VALUE),
}  # fmt: skip


@graph_pass
def unpack_qkv(program: Program) -> None:
    """Split a packed QKV projection into separate linears for query, key and value.

    Packed as [3, heads, width], the three must keep the same indices of their heads; apart, those of the value are free.
    Any linear layer is unpacked whose output is viewed with a dim of which every reader selects one constant index.

    before:
        %x : f32[2,5,8]
        %w = param "qkv.weight" : f32[12,8]
        %p = aten.linear(%x, %w)
        %v = aten.view(%p, [2, 5, 2, 6])
        %t = aten.permute(%v, [2, 0, 1, 3])
        %a = aten.select.int(%t, 0, 0)
        %b = aten.select.int(%t, 0, 1)
        %y = aten.mul.Tensor(%a, %b)
        return %y
    after:
        %x : f32[2,5,8]
        %w0 = param "qkv.weight_0" : f32[6,8]
        %p0 = aten.linear(%x, %w0, None)
        %v0 = aten.view(%p0, [2, 5, 1, 6])
        %t0 = aten.permute(%v0, [2, 0, 1, 3])
        %w1 = param "qkv.weight_1" : f32[6,8]
        %p1 = aten.linear(%x, %w1, None)
        %v1 = aten.view(%p1, [2, 5, 1, 6])
        %t1 = aten.permute(%v1, [2, 0, 1, 3])
        %a = aten.select.int(%t0, 0, 0)
        %b = aten.select.int(%t1, 0, 0)
        %y = aten.mul.Tensor(%a, %b)
        return %y
    """
    sets = alias_sets(program.graph)
    dirty = written_sets(program.graph, sets)
    for node in program.find("aten.linear"):
        weight, bias = program.tensor(node.args[1]), arguments(node)["bias"]
        plain = weight is not None and (bias is None or program.tensor(bias) is not None)
        if plain and sets[node] not in dirty and (chain := _chain(node)):
            _unpack(program, node, chain)


def _chain(linear: fx.Node) -> tuple[list[fx.Node], int, int, list[fx.Node]] | None:
    """The view and data movement after a linear layer, the viewed dim and its dim at the end, and the selects that read it."""
    path: list[fx.Node] = []
    at = linear
    while len(at.users) == 1 and op_name(next(iter(at.users))) in (_MOVES if path else _VIEWS):
        at = next(iter(at.users))
        path.append(at)
    readers = list(at.users)
    picks = {_picked_dim(user) for user in readers}
    if not path or len(picks) != 1 or None in picks:
        return None
    end = next(iter(picks)) % at.meta["val"].dim()
    for dim in _made_by_features(linear, path[0]):
        if _where(path, dim) == end:
            return path, dim, end, readers
    return None


def _picked_dim(user: fx.Node) -> int | None:
    if op_name(user) == "aten.select.int" and isinstance(user.args[2], int):
        return int(user.args[1])  # type: ignore[arg-type]
    if op_name(user) == "aten.unbind.int" and all(n.target is operator.getitem for n in user.users):
        return int(arguments(user)["dim"])
    return None


def _made_by_features(linear: fx.Node, view: fx.Node) -> list[int]:
    """The dims of a view that its source's last dim, the features, was split into."""
    features, shape = linear.meta["val"].shape[-1], view.meta["val"].shape
    size = 1
    for dim in range(len(shape) - 1, -1, -1):
        if not isinstance(shape[dim], int) or size >= features:
            return []
        size *= shape[dim]
        if size == features:
            return list(range(dim, len(shape)))
    return []


def _where(path: list[fx.Node], dim: int) -> int:
    """Where a dim of the view ends up: tracked by giving it a size that no other dim has."""
    probe = torch.empty([7 if i == dim else 1 for i in range(path[0].meta["val"].dim())], device="meta")
    for node in path[1:]:
        probe = node.target(probe, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return list(probe.shape).index(7)


def _unpack(program: Program, linear: fx.Node, chain: tuple[list[fx.Node], int, int, list[fx.Node]]) -> None:
    path, dim, end, readers = chain
    shape = path[0].meta["val"].shape
    first = min(_made_by_features(linear, path[0]))
    picks = [p for r in readers for p in (list(r.users) if op_name(r) == "aten.unbind.int" else [r])]
    indices = {p: int(p.args[1] if p not in readers else p.args[2]) % shape[dim] for p in picks}  # type: ignore[arg-type]
    after = path[-1].next
    made = {i: _copy_chain(program, linear, path, dim, first, i, after) for i in sorted(set(indices.values()))}
    for pick, index in indices.items():
        with program.graph.inserting_before(pick):
            one = program.graph.call_function(torch.ops.aten.select.int, (made[index], end, 0))
        program.replace(pick, one)


def _copy_chain(
    program: Program, linear: fx.Node, path: list[fx.Node], dim: int, first: int, index: int, before: fx.Node
) -> fx.Node:
    """The linear layer and what follows, for one index of the dim, which is left with size 1."""
    sizes = [int(n) for n in path[0].meta["val"].shape[first:]]

    def part(node: Any, name: str) -> Any:
        tensor = program.tensor(node)
        if tensor is None:
            return None
        rows = tensor.detach().unflatten(0, sizes).select(dim - first, index).flatten(0, len(sizes) - 2)
        return program.add_tensor(f"{node.target}_{index}", rows.contiguous(), before)

    call = arguments(linear)
    weight, bias = part(call["weight"], "weight"), part(call["bias"], "bias")
    with program.graph.inserting_before(before):
        at = program.graph.call_function(torch.ops.aten.linear.default, (call["input"], weight, bias))
        at.meta["stack_trace"] = linear.meta.get("stack_trace")
        for node in path:
            at = program.graph.call_function(node.target, (at, *node.args[1:]), dict(node.kwargs))  # type: ignore[arg-type]
            at.meta["stack_trace"] = node.meta.get("stack_trace")
            if node is path[0]:
                name = _VIEWS[op_name(node)]
                given = list(arguments(node)[name])
                given[dim - (node.meta["val"].dim() - len(given)) if name != "sizes" else dim - first] = 1
                set_argument(at, name, given)
    return at
