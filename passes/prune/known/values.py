"""Which cells of which values are constant, whatever the inputs are."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import fx

from fxopt.ir.alias_analysis import alias_sets, written
from fxopt.ir.op_table import arguments
from fxopt.ir.program import Program
from fxopt.passes.prune.known.cells import LIMIT, Cells, Known, extents, settle, symbolic
from fxopt.passes.prune.known.rules import rule_of


def known_values(program: Program) -> dict[fx.Node, torch.Tensor]:
    """The constants that cells of floating-point values have for all inputs, NaN where a cell is unknown.

    A tensor has the rank of its node's value. Each dim has the full size, or size 1 where the value is the same all along
    it, as for every symbolic dim. Dtype float64, or a weight's own. A node of which nothing is known is left out.

    A zero is exactly zero in any precision. Other constants are those of exact arithmetic, good to about 1e-12; a sum
    whose terms nearly cancel is unknown, as rounding matters there. All values are taken to be finite: zero times anything
    is zero. Memory that is written in place is known where no other view than the chain of writes reads it.
    """
    walk = _Walk(program)
    with torch.no_grad():
        for node in program.graph.nodes:
            walk.visit(node)
        return walk.result()


class _Walk:
    """What is known so far, node by node."""

    def __init__(self, program: Program) -> None:
        self.program, self.weights = program, program.tensors()
        self.found: dict[fx.Node, Known] = {}
        self.roots = alias_sets(program.graph)
        self.order = {node: i for i, node in enumerate(program.graph.nodes)}
        self.hidden, self.chains = self._memory()
        self.latest: dict[fx.Node, Known] = {}

    def _memory(self) -> tuple[set[fx.Node], dict[fx.Node, list[fx.Node]]]:
        """Alias sets, by their root, that are written to: those with other views, and those that are chains of writes."""
        graph = self.program.graph
        writes = {node: targets for node in graph.nodes if (targets := [*written(node), *_statistics(node)])}
        dirty = {self.roots[target] for targets in writes.values() for target in targets}
        members: dict[fx.Node, list[fx.Node]] = {root: [] for root in dirty}
        writers: dict[fx.Node, set[fx.Node]] = {root: set() for root in dirty}
        for node in graph.nodes if dirty else ():
            if self.roots[node] in dirty:
                members[self.roots[node]].append(node)
        for node, targets in writes.items():
            for target in targets:
                writers[self.roots[target]].add(node)
        chains = {}
        for root in dirty:
            first, *rest = members[root]
            whole = all(written(node) == [node.args[0]] for node in rest if node.args)
            if first.op != "get_attr" and writers[root] == set(rest) and whole:
                chains[root] = members[root]
        return dirty - set(chains), chains

    def visit(self, node: fx.Node) -> None:
        """Derive the constants of one node."""
        root = self.roots[node]
        if root in self.hidden:
            return
        known = self._known(node)
        if root in self.chains:
            self.latest[root] = known
        if known is not None:
            self.found[node] = known

    def _known(self, node: fx.Node) -> Known:
        value = node.meta.get("val")
        if node.op == "get_attr":
            return _stored(self.weights.get(str(node.target)))
        if node.op != "call_function" or value is None:
            return None
        if node.target is operator.getitem:
            parts = self._read(node.args[0])
            return _finished(parts[node.args[1]], value) if isinstance(parts, list) else None  # type: ignore[index]
        rule = rule_of(node)
        if rule is None:
            return None
        known = rule(node, arguments(node), self._of)
        if isinstance(known, list):
            kept = [_finished(part, like) for part, like in zip(known, value, strict=True)]
            return kept if any(part is not None for part in kept) else None
        return _finished(known, value)

    def _read(self, node: Any) -> Known:
        """The present contents of memory, after its last write."""
        root = self.roots[node]
        return self.latest.get(root) if root in self.chains else self.found.get(node)

    def _of(self, argument: Any) -> Cells:
        if isinstance(argument, fx.Node):
            known = self._read(argument)
            return known if isinstance(known, torch.Tensor) else None
        return torch.tensor(float(argument), dtype=torch.float64) if isinstance(argument, (int, float)) else None

    def result(self) -> dict[fx.Node, torch.Tensor]:
        """The constants that hold for all readers of each node, also those after an in-place write."""
        kept = {}
        for node, known in self.found.items():
            weight = self.weights.get(str(node.target)) if node.op == "get_attr" else None
            if not isinstance(known, torch.Tensor) or self._overwritten(node):
                continue
            if weight is not None and not weight.is_floating_point():
                continue
            dims = symbolic(node.meta["val"].shape) if weight is None else []
            known = settle(known, dims)
            if not dims or not bool(known.isnan().all()):
                kept[node] = known
        return kept

    def _overwritten(self, node: fx.Node) -> bool:
        """Whether something reads the node after its memory was overwritten."""
        chain = self.chains.get(self.roots[node])
        if chain is None or node is chain[-1]:
            return False
        write = self.order[chain[chain.index(node) + 1]]
        return any(self.order[user] > write for user in node.users)


def _statistics(node: fx.Node) -> list[fx.Node]:
    """The running statistics that a norm in training updates, which its schema does not declare."""
    if node.op != "call_function" or "norm" not in str(node.target) or not hasattr(node.target, "_schema"):
        return []
    call = arguments(node)
    if not (call.get("training") or call.get("use_input_stats")):
        return []
    return [call[k] for k in ("running_mean", "running_var") if isinstance(call.get(k), fx.Node)]


def _stored(tensor: torch.Tensor | None) -> Cells:
    """A weight itself; integers, as indices are, as float64."""
    if tensor is None or tensor.is_complex() or tensor.is_quantized or tensor.numel() == 0:
        return None
    if tensor.is_floating_point():
        return tensor.detach()
    return tensor.double() if tensor.numel() <= LIMIT else None


def _finished(cells: Cells, like: Any) -> Cells:
    """Check cells against the value they are of; None where nothing is known."""
    if cells is None or not isinstance(like, torch.Tensor) or not like.is_floating_point():
        return None
    full = extents(like.shape)
    if 0 in full or cells.dim() > len(full) or cells.numel() > LIMIT:
        return None
    cells = cells.reshape([1] * (len(full) - cells.dim()) + list(cells.shape))
    odd = [d for d, size in enumerate(full) if cells.shape[d] not in (1, size)]
    if any(isinstance(like.shape[d], int) for d in odd):
        return None
    cells = settle(cells, odd)
    cells = torch.where(cells.isfinite(), cells, math.nan)
    return None if bool(cells.isnan().all()) else cells
