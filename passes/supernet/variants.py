"""What each node of a program becomes in a sub-network: rewritten once for each choice of the widths that it depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt import Program
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.axes import Axis
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.table import find_rule
from fxopt.passes.supernet.space import Space

Key = tuple[int, ...]
"""Of the widths that a node depends on, how many units are used."""
Picks = tuple[tuple[int, int | torch.Tensor], ...]
"""Dims of a weight, each with how many of its first indices are used, or which ones."""


class Variants:
    """Nodes of a space in their variants, each made when it is first asked for and kept."""

    def __init__(self, space: Space) -> None:
        self._space, self._sweep = space, space.sweep
        owner = np.full(len(space.sweep.atoms), -1)
        for number, width in enumerate(space.widths):
            owner[width.atoms] = number
        found: dict[int, frozenset[int]] = {}

        def of_axis(axis: Axis) -> frozenset[int]:
            for rows in ax.arrays(axis):
                if id(rows) not in found:
                    found[id(rows)] = frozenset(np.unique(owner[self._sweep.resolve(rows)]).tolist()) - {-1}
            return frozenset().union(*(found[id(rows)] for rows in ax.arrays(axis)))

        own = {n: frozenset().union(*map(of_axis, self._sweep.all_axes(n))) for n in self._sweep.axes}
        none: frozenset[int] = frozenset()
        self.touched = {
            node: tuple(sorted(own.get(node, none).union(*(own.get(n, none) for n in node.all_input_nodes))))
            for node in space.program.graph.nodes
        }
        """The numbers of the widths that a node's value or operands depend on."""
        self._cuts: dict[Key, Cut] = {}
        self._picks: dict[tuple[fx.Node, Key], Picks] = {}
        self._calls: dict[tuple[fx.Node, Key], Callable[..., Any] | None] = {}

    def key(self, node: fx.Node, widths: Sequence[int]) -> Key:
        """What a node's variant depends on."""
        return tuple(widths[number] for number in self.touched[node])

    def cut(self, node: fx.Node, widths: Sequence[int]) -> Cut:
        """What a node keeps of each dim; widths that it does not depend on count as whole."""
        every = list(self._space.whole.widths)
        for number in self.touched[node]:
            every[number] = widths[number]
        if tuple(every) not in self._cuts:
            self._cuts[tuple(every)] = Cut(self._space.program, self._sweep, self._space.live(every))
        return self._cuts[tuple(every)]

    def picks(self, node: fx.Node, widths: Sequence[int]) -> Picks:
        """The indices of a weight that are used."""
        key = (node, self.key(node, widths))
        if key not in self._picks:
            cut = self.cut(node, widths)
            kept = ((dim, cut.kept(axis)) for dim, axis in enumerate(self._sweep.of(node)))
            self._picks[key] = tuple((dim, _pick(indices)) for dim, indices in kept if indices is not None)
        return self._picks[key]

    def call(self, node: fx.Node, widths: Sequence[int]) -> Callable[..., Any] | None:
        """The rewritten call of a node, of the values of ``node.all_input_nodes``; None where it does not change."""
        key = (node, self.key(node, widths))
        if key not in self._calls:
            self._calls[key] = self._rewritten(node, widths)
        return self._calls[key]

    def _rewritten(self, node: fx.Node, widths: Sequence[int]) -> Callable[..., Any] | None:
        """Run the rule that shrink rewrites a node by, on a graph that holds nothing else."""
        rule = find_rule(node)
        if rule is None or rule.rewrite is None or tuple(widths) == self._space.whole.widths:
            return None
        graph = fx.Graph()
        twins: dict[fx.Node, fx.Node] = {}
        for operand in node.all_input_nodes:
            twins[operand] = graph.placeholder(operand.name)
            twins[operand].meta = dict(operand.meta)
        twins[node] = graph.node_copy(node, twins.__getitem__)
        graph.output(twins[node])
        before = str(graph)
        program = Program(fx.GraphModule(torch.nn.Module(), graph), ())
        axes = {twin: self._sweep.axes[n] for n, twin in twins.items() if n in self._sweep.axes}
        notes = {twins[node]: _renamed(self._sweep.notes[node], twins)} if node in self._sweep.notes else {}
        sweep = dataclasses.replace(self._sweep, program=program, axes=axes, notes=notes)
        rule.rewrite(Cut(program, sweep, self.cut(node, widths).live), twins[node])
        if str(graph) == before:
            return None
        program.module.recompile()
        return program.module


def _renamed(note: Any, twins: dict[fx.Node, fx.Node]) -> Any:
    """A rule's notes for its rewrite, with nodes renamed to their copies."""
    return pytree.tree_map(lambda v: twins[v] if isinstance(v, fx.Node) else v, note)


def _pick(indices: np.ndarray[Any, Any]) -> int | torch.Tensor:
    """The first indices as their number, others as they are."""
    count = len(indices)
    return count if count and int(indices[-1]) == count - 1 else torch.from_numpy(indices)
