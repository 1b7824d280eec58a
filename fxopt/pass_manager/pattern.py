"""A rewrite of one pattern by another, written as two plain functions, on top of torch.fx's subgraph matcher."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx import subgraph_rewriter
from torch.fx.passes.utils.matcher_utils import InternalMatch

from fxopt.errors import FxoptError, UsageError
from fxopt.ir.program import Program
from fxopt.pass_manager.pass_base import Kind, PassType, graph_pass


@dataclass(frozen=True)
class Match:
    """A match of the pattern. ``nodes`` maps each parameter of the pattern to a node, or to a number in the graph. ``last`` is
    the node whose result is replaced."""

    program: Program
    nodes: dict[str, Any]
    last: fx.Node

    def __getitem__(self, name: str) -> Any:
        return self.nodes[name]

    def tensor(self, name: str) -> torch.Tensor | None:
        """The weight that a parameter of the pattern matched; None if it is computed."""
        return self.program.tensor(self.nodes[name])


def rewrite_pass(
    name: str,
    pattern: Callable[..., Any],
    replacement: Callable[..., Any],
    *,
    inputs: tuple[Any, ...] | None = None,
    check: Callable[[Match], str | None] | None = None,
    kind: Kind = "exact",
    doc: str = "",
) -> PassType[[]]:
    """Make a pass that replaces every match of ``pattern`` by ``replacement``.

    Both are functions of the same tensors, in plain torch with example ``inputs`` to trace them with, or, without
    ``inputs``, in calls of ``torch.ops.aten``. A parameter of the pattern matches any value; a number in it matches only
    that number. A match is declined, and reported, where ``check(match)`` returns a reason. Nodes whose inner values have
    other users are no match. ``doc`` is the manual, its first line the summary.

    Raises UsageError for a function that cannot be traced, or parameters that differ. The source of the matching is
    ``torch.fx``; in its graphs sizes are numbers, so a pattern with reshapes is better written in ``torch.ops.aten``.
    """
    find, put = (
        _trace(f"{name}: the {role}", f, inputs) for role, f in (("pattern", pattern), ("replacement", replacement))
    )
    parameters = [n.name for n in find.nodes if n.op == "placeholder"]
    if len(parameters) != sum(n.op == "placeholder" for n in put.nodes):
        raise UsageError(f"{name}: pattern and replacement take a different number of tensors")

    def run(program: Program) -> None:
        def accept(found: InternalMatch, _graph: fx.Graph, _pattern: fx.Graph) -> bool:
            nodes = dict(zip(parameters, found.placeholder_nodes, strict=True))
            match = Match(program, nodes, found.returning_nodes[0])
            reason = check(match) if check else None
            if reason:
                program.skip(match.last, reason)
            return not reason

        replaced = subgraph_rewriter.replace_pattern_with_filters(
            program.module, find, put, match_filters=[accept], ignore_literals=False
        )
        for place in replaced:
            for node in place.replacements:
                node.meta["stack_trace"] = place.nodes_map[place.anchor].meta.get("stack_trace")

    run.__name__ = run.__qualname__ = name
    run.__module__ = sys._getframe(1).f_globals.get("__name__", __name__)
    run.__doc__ = doc or f"Replace one pattern by another ({name})."
    return graph_pass(kind=kind)(run)


def _trace(what: str, function: Callable[..., Any], inputs: tuple[Any, ...] | None) -> fx.Graph:
    if inputs is not None:
        graph = _capture(what, function, inputs)
    else:
        graph = _record(what, function)
    constant = next((n for n in graph.nodes if n.op == "get_attr"), None)
    if constant is not None:
        raise UsageError(f"{what} holds a tensor of its own; make it a parameter of the function")
    unused = [n.name for n in graph.nodes if n.op == "placeholder" and not n.users]
    if unused and "pattern" in what:
        raise UsageError(f"{what} does not use its parameter(s) {', '.join(unused)}: they would match nothing")
    return graph


def _capture(what: str, function: Callable[..., Any], inputs: tuple[Any, ...]) -> fx.Graph:
    from fxopt.frontend.capture import capture

    class Traced(torch.nn.Module):
        def forward(self, *args: Any) -> Any:
            return function(*args)

    try:
        return capture(Traced(), inputs, dynamic=None).graph
    except FxoptError as error:
        raise UsageError(f"{what} cannot be traced: {error}") from error


def _record(what: str, function: Callable[..., Any]) -> fx.Graph:
    try:
        graph = fx.symbolic_trace(function).graph
    except Exception as error:
        raise UsageError(
            f"{what} cannot be traced: {error}", way_out="give example tensors: inputs=(torch.randn(2, 3),)"
        ) from error
    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        if isinstance(node.target, torch._ops.OpOverloadPacket):
            node.target = node.target.default
        if not isinstance(node.target, torch._ops.OpOverload):
            raise UsageError(
                f"{what} calls {getattr(node.target, '__name__', node.target)}, which is no torch.ops.aten call",
                way_out="give example tensors, inputs=(torch.randn(2, 3),), and it may be written in plain torch",
            )
    return graph
