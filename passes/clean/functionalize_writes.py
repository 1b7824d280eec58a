"""Write in-place ops on slices as ops that give a new tensor."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.alias_analysis import alias_sets, functional_twin, is_private, written


@graph_pass
def functionalize_writes(program: Program) -> None:
    """Functionalize in-place ops on slices of values with ``slice_scatter`` and ``select_scatter``.

    Runtimes have no memory that is written in place. Writes that a caller can see stay: into inputs, weights and buffers;
    so do writes while another view of the same memory is read after them, and views that are neither slices nor single indices.

    before:
        %x : f32[2,6]
        %y = aten.relu(%x)
        %s = aten.slice.Tensor(%y, 1, 0, 3)
        %w = aten.mul_.Scalar(%s, 2.0)
        return %y
    after:
        %x : f32[2,6]
        %y = aten.relu(%x)
        %s = aten.slice.Tensor(%y, 1, 0, 3)
        %w = aten.mul.Scalar(%s, 2.0)
        %z = aten.slice_scatter(%y, %w, 1, 0, 3)
        return %z
    """
    for node in list(program.graph.nodes):
        targets = written(node)
        if len(targets) != 1 or targets[0] is not node.args[0]:
            continue
        twin = functional_twin(node.target)
        if twin is None:
            continue
        chain, sets = _parts(targets[0]), alias_sets(program.graph)
        order = {n: i for i, n in enumerate(program.graph.nodes)}
        shared = [n for n, root in sets.items() if root is sets[node]]
        if is_private(node, shared, order, (chain[0], chain[-1])):
            _rewrite(program, node, chain, twin, order)


_SCATTER: dict[Any, Any] = {
    torch.ops.aten.slice.Tensor: torch.ops.aten.slice_scatter.default,
    torch.ops.aten.select.int: torch.ops.aten.select_scatter.default,
}
"""By op of the view that is written to: the op that scatters its new value into the base."""


def _parts(view: fx.Node) -> list[fx.Node]:
    """The slices and selects from a view down to its base."""
    chain = [view]
    while chain[-1].target in _SCATTER:
        source: Any = chain[-1].args[0]
        chain.append(source)
    return chain


def _rewrite(program: Program, node: fx.Node, chain: list[fx.Node], twin: Any, order: dict[fx.Node, int]) -> None:
    view, whole = chain[0], chain[-1]
    later = {n: [user for user in n.users if order[user] > order[node]] for n in (view, whole)}
    new: fx.Node = program.call(twin, *node.args, like=node, **node.kwargs)
    made = new
    for part, source in itertools.pairwise(chain):
        made = program.call(_SCATTER[part.target], source, made, *part.args[1:], like=made)
    for user in later[whole]:
        user.replace_input_with(whole, made)
    if view is not whole:
        for user in later[view]:
            user.replace_input_with(view, new)
    program.replace(node, new)
