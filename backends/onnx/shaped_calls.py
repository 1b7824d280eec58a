"""Calls put into a graph with the shapes of their results, which a kernel's form asks for."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.ir.program import Program

STEM = "fxopt_stem"
"""The name of the program's node that a node put in its place computes, in the latter's ``meta``."""
aten = torch.ops.aten


def call(program: Program, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A call at the graph's insertion point, of nodes and lists of sizes, which may be nodes too."""
    made = program.graph.call_function(target, args, kwargs)
    made.meta["val"] = target(*map(_value, args), **kwargs)
    return made


def size_of(program: Program, node: fx.Node, dim: int) -> Any:
    """A size of a value: a number, or the call that gives it."""
    size = node.meta["val"].shape[dim]
    if isinstance(size, int):
        return size
    made = program.graph.call_function(aten.sym_size.int, (node, dim))
    made.meta["val"] = size
    return made


def _value(arg: Any) -> Any:
    if isinstance(arg, list):
        return [_value(item) for item in arg]
    return arg.meta["val"] if isinstance(arg, fx.Node) else arg
