"""Which weights make a branch zero: those of the last layer on every path to its end."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import arguments, running_statistics
from fxopt.ir.program import Program
from fxopt.passes.prune.depth.residual import Branch
from fxopt.passes.prune.depth.stream_graph import made_of_weights, reads_values
from fxopt.passes.prune.known.rules import rule_of

Site = tuple[fx.Node, fx.Node]
"""A call and a weight among its operands, to be zeroed for that call."""


def zeroing_sites(program: Program, branch: Branch) -> tuple[Site, ...] | str:
    """The fewest weights, from the end of a branch back, that make it zero for all inputs; or why there are none.

    The rules of :mod:`fxopt.passes.prune.known.values`, by which drop_zero_branches finds zeros, say what makes a call
    zero. First the weights of the call are tried (weight and bias of a layer, gamma and beta of a norm, the scale of a
    layer), then one operand, and last all of them, as for a sum.
    """
    found = _Walk(program, branch).zeroed(branch.end)
    if isinstance(found, str):
        return found
    sites = tuple(dict.fromkeys(found))
    return _read_elsewhere(program, branch, sites) or sites


def zero_sites(program: Program, sites: Iterable[Site]) -> None:
    """Let every call read zeros instead of the weight; its other readers keep the weight."""
    for user, weight in dict.fromkeys(sites):
        program.swap_tensor(user, weight, torch.zeros_like(program.tensor(weight)))  # type: ignore[arg-type]


class _Walk:
    """From the end of a branch back to weights."""

    def __init__(self, program: Program, branch: Branch) -> None:
        self._program, self._branch = program, branch
        self._constants = made_of_weights(program)
        self._memo: dict[tuple[fx.Node, Any], list[Site] | str] = {}

    def zeroed(self, node: fx.Node, part: Any = None) -> list[Site] | str:
        """What to zero so that a node is zero, or one ``part`` of a node with several results."""
        if node.target is operator.getitem:
            return self.zeroed(node.args[0], node.args[1])  # type: ignore[arg-type]
        if (node, part) not in self._memo:
            self._memo[node, part] = self._found(node, part)
        return self._memo[node, part]

    def _found(self, node: fx.Node, part: Any) -> list[Site] | str:
        reason = f"no weight of the branch makes it zero after {self._program.describe(node)}"
        for chosen in self._choices(node):
            if not self._is_zero(node, chosen, part):
                continue
            sites = [(node, weight) for weight in chosen if weight.op == "get_attr"]
            for operand in chosen:
                further = [] if operand.op == "get_attr" else self.zeroed(operand)
                if isinstance(further, str):
                    reason = further
                    break
                sites += further
            else:
                return sites
        return reason

    def _choices(self, node: fx.Node) -> Iterator[Sequence[fx.Node]]:
        """Sets of operands to try as zeros; constants computed from weights count as weights."""
        statistics = running_statistics(node)
        inside = [operand for operand in node.all_input_nodes if operand in self._branch.nodes]
        own = [operand for operand in node.all_input_nodes if operand in self._constants and operand not in statistics]
        if own:
            yield own
        yield from ([operand] for operand in inside)
        if len(own) + len(inside) > 1:
            yield [*own, *inside]

    def _is_zero(self, node: fx.Node, zeros: Sequence[fx.Node], part: Any) -> bool:
        """Whether a call is zero if ``zeros`` are, with nothing known of its other computed operands."""

        def of(argument: Any) -> torch.Tensor | None:
            if not isinstance(argument, fx.Node):
                return torch.tensor(float(argument)).double() if isinstance(argument, (int, float)) else None
            if argument in zeros:
                return torch.zeros([1] * argument.meta["val"].dim(), dtype=torch.float64)
            stored = self._program.tensor(argument)
            return stored.detach() if stored is not None and stored.is_floating_point() else None

        rule = rule_of(node) if node.op == "call_function" else None
        if rule is None or any(not isinstance(zero.meta.get("val"), torch.Tensor) for zero in zeros):
            return False
        known = rule(node, arguments(node), of)
        known = known[part] if isinstance(known, list) and part is not None else known
        return isinstance(known, torch.Tensor) and not bool(known.count_nonzero())  # NaN, an unknown cell, counts


def _read_elsewhere(program: Program, branch: Branch, sites: Iterable[Site]) -> str | None:
    """Whether zeros would reach readers other than the branch and its sum."""
    constants = made_of_weights(program)
    changed, todo = set(), [user for user, _ in sites]
    while todo:
        node = todo.pop()
        if node in changed or node is branch.total or not reads_values(node):
            continue
        if node not in branch.nodes and node not in constants:
            return f"what would be zero is also read outside the branch: {program.describe(node)}"
        changed.add(node)
        todo += node.users
    return None
