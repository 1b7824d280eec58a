"""Dims that are reduced: where zeros do not count they are summed over, otherwise they stay."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.rules_contraction import contract
from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule


def scale_result(cut: Cut, node: fx.Node, factor: float) -> None:
    """Multiply what a node gives."""
    users = list(node.users)
    scaled = cut.program.call(torch.ops.aten.mul.Tensor, node, factor, like=node)
    scaled.meta["val"], cut.sweep.axes[scaled] = node.meta["val"], cut.sweep.axes[node]
    for user in users:
        user.replace_input_with(node, scaled)
    cut.replaced[node] = scaled


def _reduced(sweep: Sweep, node: fx.Node) -> list[int]:
    """The dims that are reduced."""
    rank, call = len(sweep.of(node.args[0])), arguments(node)
    dims = call.get("dim")
    dims = list(range(rank)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    return [d % rank for d in dims] if rank else []


def _without(sweep: Sweep, node: fx.Node, dims: list[int]) -> Any:
    axes, keep = sweep.of(node.args[0]), arguments(node).get("keepdim", False)
    left = [(1,) if i in dims else axis for i, axis in enumerate(axes) if keep or i not in dims]
    return left if isinstance(node.meta["val"], torch.Tensor) else [list(left) for _ in node.meta["val"]]


@rule("sum", "linalg_vector_norm", "norm")
def total(sweep: Sweep, node: fx.Node) -> Axes:
    """Zeros add nothing: such a dim is summed over."""
    call, dims = arguments(node), _reduced(sweep, node)
    order = call.get("ord", call.get("p", 2))
    for d in dims:
        if order is None or order >= 0:
            contract(sweep, node, sweep.of(node.args[0])[d], (node.args[0], d), also=dims)  # type: ignore[arg-type]
        else:
            sweep.pin([sweep.of(node.args[0])[d]], node, f"a norm of order {order} over this dim")
    return _without(sweep, node, dims)


def _mean(cut: Cut, node: fx.Node) -> None:
    """The sum stays, so the mean over fewer is larger."""
    axes = cut.sweep.of(node.args[0])
    counts = [cut.count(axes[d]) for d in _reduced(cut.sweep, node)]
    if any(old != new for old, new in counts):
        scale_result(cut, node, math.prod(new for _, new in counts) / math.prod(old for old, _ in counts))


@rule("mean", rewrite=_mean)
def mean(sweep: Sweep, node: fx.Node) -> Axes:
    """As a sum; what it is divided by is made up for."""
    return total(sweep, node)


@rule("topk", "sort", "argsort")
def ordered(sweep: Sweep, node: fx.Node) -> Any:
    """In the order of the elements along a dim."""
    axes, dim = sweep.of(node.args[0]), arguments(node)["dim"]
    value = node.meta["val"]
    sweep.pin([axes[dim]], node, "elements are ordered along this dim")
    axes[dim] = sweep.fixed(value if isinstance(value, torch.Tensor) else value[0])[dim]
    return axes if isinstance(value, torch.Tensor) else [list(axes) for _ in value]


@rule("family:reduce", "prod", "any", "all", "std", "var", "var_mean")
def reduce(sweep: Sweep, node: fx.Node) -> Any:
    """Extremes, deviations and the like look at every index."""
    dims = _reduced(sweep, node)
    sweep.pin([sweep.of(node.args[0])[d] for d in dims], node, "it is reduced over this dim")
    return _without(sweep, node, dims)
