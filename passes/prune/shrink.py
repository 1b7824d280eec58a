"""Remove every channel that cannot influence an output."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.shape_inference import derive_shapes
from fxopt.passes.prune.coupling.analysis import couple, needed
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.leftover import report_leftover
from fxopt.passes.prune.coupling.table import find_rule


@graph_pass(assumes_finite=True)
def shrink(program: Program) -> None:
    """Remove every channel, head and group that cannot influence an output, across the whole graph.

    A channel goes if all that read it multiply it by zero, or if it is zero itself wherever that counts; however the
    zeros came about: zero_channels, a mask file, a penalty in training. Weights are cut, and so are the sizes, sections,
    bounds, groups and scales that the graph holds as constants. At least one index of every dim stays. What is read as
    zero and stays all the same is reported with the reason, such as a layer norm over the channels.

    In float64 every remaining number of every value is compared with what it was before.

    before:
        %x : f32[2,4]
        %w = param "fc.weight" : f32[6,4]
        %h = aten.linear(%x, %w)
        %y = aten.slice.Tensor(%h, 1, 2, 5)
        return %y
    after:
        %x : f32[2,4]
        %w = param "fc.weight" : f32[3,4]
        %h = aten.linear(%x, %w)
        %y = aten.slice.Tensor(%h, 1, 0, 3)
        return %y
    """
    program.claims = {node.name: (node.name, {}) for node in program.graph.nodes if node.op == "call_function"}
    while True:
        sweep = couple(program)
        liveness = needed(sweep)
        cut = Cut(program, sweep, liveness.live)
        changes = cut.changes()
        if last := liveness.settled or not changes:
            report_leftover(program, sweep, liveness)
        if changes:
            _apply(cut)
        if last:
            return
        derive_shapes(program)  # for another look: what went may have been all that a channel fed


def _apply(cut: Cut) -> None:
    """Cut the weights, rewrite the ops, and claim what is left of every value."""
    program = cut.program
    _cut_weights(cut)
    nodes = list(program.graph.nodes)
    for node in nodes:
        if node.op != "call_function":
            continue
        if "_assert_tensor_metadata" in str(node.target):  # it holds sizes
            program.graph.erase_node(node)
        elif (rule := find_rule(node)) and rule.rewrite:
            rule.rewrite(cut, node)
    for node in nodes:
        if node.op == "call_function" and not node._erased:
            _claim(cut, node)


def _cut_weights(cut: Cut) -> None:
    weights = cut.program.tensors()
    done: set[int] = set()
    changed: dict[str, torch.Tensor] = {}
    for node in cut.program.graph.nodes:
        tensor = weights.get(str(node.target)) if node.op == "get_attr" else None
        if tensor is None or id(tensor) in done:
            continue
        small = tensor.detach()
        for dim, axis in enumerate(cut.sweep.of(node)):
            if (kept := cut.kept(axis)) is not None:
                index = torch.tensor(
                    kept
                )  # its own: dims that are alike share an array, and a cache stores no shared memory
                small = small.index_select(dim, index)
                here = cut.program.kept_indices.setdefault(str(node.target), {})
                here[dim] = here[dim][index] if dim in here else index
        done.add(id(tensor))
        if small.shape != tensor.shape:
            changed[str(node.target)] = small.contiguous()
    cut.program.set_tensors(changed)


def _claim(cut: Cut, node: fx.Node) -> None:
    """Say what is left of a value; of one that is several, or has a dynamic size merged in, its readers say so.

    A node without a claim gets none: an earlier look added it, or gave its claim to another node.
    """
    claim = cut.program.claims.pop(node.name, None)
    axes: Any = cut.sweep.axes[node]
    listed = isinstance(node.meta.get("val"), torch.Tensor) and all(cut.is_listed(axis) for axis in axes)
    if claim is None or not listed:
        return
    was, kept = claim
    for dim, axis in enumerate(axes):
        if (indices := cut.kept(axis)) is not None:
            index = torch.from_numpy(indices)
            kept[dim] = kept[dim][index] if dim in kept else index
    cut.program.claims[cut.replaced.get(node, node).name] = (was, kept)
