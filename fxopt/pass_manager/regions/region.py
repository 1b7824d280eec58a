"""A rewritten region: the nodes on both sides that compute one value from values common to both programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from fxopt.ir.program import Program


@dataclass(frozen=True, eq=False)
class Region:
    """``goal`` is computed by ``new``, as ``was`` is by ``old``, from the values of ``leaves``; all in order.

    ``cut`` maps each value that the new nodes read from outside to the equal one of the program before; the old nodes
    compute these too, where they are no leaves.
    """

    goal: fx.Node
    was: fx.Node
    new: tuple[fx.Node, ...]
    old: tuple[fx.Node, ...]
    leaves: tuple[fx.Node, ...]
    cut: dict[fx.Node, fx.Node]

    def within(self, before: Program, after: Program) -> Region:
        """The same region in programs with the same node names. Raises KeyError where one has no such node."""
        olds, news = ({n.name: n for n in p.graph.nodes} for p in (before, after))
        return Region(
            news[self.goal.name],
            olds[self.was.name],
            tuple(news[n.name] for n in self.new),
            tuple(olds[n.name] for n in self.old),
            tuple(olds[n.name] for n in self.leaves),
            {news[a.name]: olds[b.name] for a, b in self.cut.items()},
        )


class Cutter:
    """Finds regions between two programs."""

    def __init__(self, before: Program, after: Program) -> None:
        self._order = {node: i for graph in (before.graph, after.graph) for i, node in enumerate(graph.nodes)}
        self._ancestors: dict[fx.Node, int] = {}
        self._varies: dict[fx.Node, bool] = {}
        for node in before.graph.nodes:
            above = 0
            for operand in () if is_size(node) else node.all_input_nodes:
                above |= self._ancestors[operand] | 1 << self._order[operand]
            self._ancestors[node] = above
            self._varies[node] = node.op == "placeholder" or any(self._varies[n] for n in node.all_input_nodes)

    def cut(self, goal: fx.Node, was: fx.Node, same: Callable[[fx.Node], fx.Node | None], stop: set[fx.Node]) -> Region:
        """The region between ``goal`` and ``was``.

        ``same`` maps a value of the program after to the one before that is known to equal it; ``stop`` are the values
        before that have such a counterpart.
        """
        cut: dict[fx.Node, fx.Node] = {}
        new, todo = set(), [goal]
        while todo:
            node = todo.pop()
            if (equal := same(node)) is not None and node.op != "get_attr":
                cut[node] = equal
            elif node not in new:
                new.add(node)
                todo += node.all_input_nodes
        old, border, todo = {was}, set(cut.values()), list(was.all_input_nodes)
        if was.op == "placeholder" or (was in stop and was.op != "get_attr"):
            old, border, todo = set(), border | {was}, []
        while todo:
            node = todo.pop()
            if node.op == "placeholder" or is_size(node) or (node in stop and node.op != "get_attr"):
                border.add(node)
            elif node not in old:
                old.add(node)
                todo += node.all_input_nodes
        border -= old
        leaves = self._spread(border, old)
        return Region(goal, was, self._sorted(new), self._sorted(old), self._sorted(leaves), cut)

    def extend(self, region: Region, depth: int) -> Region:
        """The same region from leaves farther up, by about ``depth`` nodes, so that its inputs are values that do occur."""
        old, leaves = set(region.old), set(region.leaves)
        while len(old) < len(region.old) + depth:
            inner = {leaf for leaf in leaves if leaf.op != "placeholder" and not is_size(leaf)}
            if not inner:
                break
            for leaf in inner:
                leaves.remove(leaf)
                old.add(leaf)
                leaves |= {n for n in leaf.all_input_nodes if n not in old}
            leaves = self._spread(leaves, old)
        return Region(region.goal, region.was, region.new, self._sorted(old), self._sorted(leaves), region.cut)

    def _spread(self, border: set[fx.Node], old: set[fx.Node]) -> set[fx.Node]:
        """Leaves that may be chosen freely: none depends on another, and none is an index, a size or a constant."""
        leaves: set[fx.Node] = set()
        todo = sorted(border, key=self._order.__getitem__)
        while todo:
            node = todo.pop()
            if node in old or node in leaves:
                continue
            above = self._ancestors[node]
            if (
                node.op == "placeholder"
                or is_size(node)
                or (
                    _is_free(node)
                    and self._varies[node]
                    and not any(above >> self._order[n] & 1 for n in (*todo, *leaves))
                )
            ):
                leaves.add(node)
            else:
                old.add(node)
                todo = sorted({*todo, *node.all_input_nodes}, key=self._order.__getitem__)
        # an expanded node may be above a leaf chosen earlier
        mixed = {leaf for leaf in leaves if any(self._ancestors[leaf] >> self._order[n] & 1 for n in leaves)}
        if mixed:
            old |= mixed
            return self._spread(
                (leaves - mixed) | {n for leaf in mixed for n in leaf.all_input_nodes if n not in old}, old
            )
        return leaves

    def _sorted(self, nodes: set[fx.Node]) -> tuple[fx.Node, ...]:
        return tuple(sorted(nodes, key=self._order.__getitem__))


def is_size(node: fx.Node) -> bool:
    """Whether a call computes a size: a number that depends on the sizes of the inputs alone."""
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        return False
    return not free_unbacked_symbols(value)


def _is_free(node: fx.Node) -> bool:
    """Whether a value may be anything of its type, with sizes that depend on those of the inputs alone."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or free_unbacked_symbols(value):
        return False
    return value.is_floating_point() or value.is_complex() or value.dtype == torch.bool


def constants_in(nodes: tuple[fx.Node, ...]) -> list[float]:
    """The numeric constants in calls."""
    found: list[float] = []

    def note(value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append(float(value))
        return value

    for node in nodes:
        fx.node.map_aggregate((node.args, node.kwargs), note)
    return [c for c in dict.fromkeys(found) if abs(c) < 1e300]
