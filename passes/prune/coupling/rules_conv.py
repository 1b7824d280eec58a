"""Convolutions: channels are a product of groups and the channels of a group; a depthwise one sums over none."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import arguments, set_argument
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.axes import Axis
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.sweep import Axes, Contraction, Sweep
from fxopt.passes.prune.coupling.table import rule

_GROUPING = "the channels are grouped in another way elsewhere"


def _groups(cut: Cut, node: fx.Node) -> None:
    if node in cut.sweep.notes:
        old, new = cut.count(cut.sweep.notes[node])
        set_argument(node, "groups", arguments(node)["groups"] // old * new)


@rule("conv1d", "conv2d", "conv3d", rewrite=_groups)
def convolution(sweep: Sweep, node: fx.Node) -> Axes:
    """``weight [groups * out, in, *kernel]``; the input is a product of groups and ``in``, the output of groups and out."""
    call = arguments(node)
    x, weight, bias, groups = sweep.of(call["input"]), sweep.of(call["weight"]), sweep.of(call["bias"]), call["groups"]
    at = len(x) - len(weight) + 1
    if isinstance(groups, fx.Node):
        return _of_unknown_groups(sweep, node)
    sweep.pin([*x[at + 1 :], *weight[2:]], node, "positions under a kernel")
    group, inner = split_groups(sweep, node, x[at], groups)
    sweep.unite(inner, weight[1], node)
    sweep.unite(group, split_groups(sweep, node, weight[0], groups)[0], node)
    kernel = (1,) * len(weight[2:])

    def blocks(w: torch.Tensor) -> torch.Tensor:
        return w.flatten(2).unflatten(0, (groups, -1))

    def spread(values: torch.Tensor) -> torch.Tensor:
        blocks = values.reshape(groups, -1)
        if groups > 1:
            blocks = blocks.repeat_interleave(ax.length(weight[0]) // groups, 0)
        return blocks.unflatten(1, (-1, *kernel))

    _convolve(sweep, node, x[at], ax.length(inner), 1, blocks, spread, weight[0])
    out = sweep.broadcast([weight[:1], bias], node)
    return [*x[:at], *out, *sweep.fixed(node.meta["val"])[at + 1 :]]


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", rewrite=_groups)
def transposed_convolution(sweep: Sweep, node: fx.Node) -> Axes:
    """``weight [groups * in, out, *kernel]``; the output is a product of groups and out."""
    call = arguments(node)
    x, weight, bias, groups = sweep.of(call["input"]), sweep.of(call["weight"]), sweep.of(call["bias"]), call["groups"]
    at = len(x) - len(weight) + 1
    if isinstance(groups, fx.Node):
        return _of_unknown_groups(sweep, node)
    sweep.pin([*x[at + 1 :], *weight[2:]], node, "positions under a kernel")
    axis = sweep.unite(x[at], weight[0], node)
    group, inner = split_groups(sweep, node, axis, groups)
    out = ax.merged(group, weight[1])

    def blocks(w: torch.Tensor) -> torch.Tensor:
        return w.flatten(2).unflatten(0, (groups, -1)).transpose(1, 2)

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(-1, *(1,) * (len(weight) - 1))

    _convolve(sweep, node, axis, ax.length(inner), 0, blocks, spread, out)
    out = sweep.broadcast([[out], bias], node)[0]
    return [*x[:at], out, *sweep.fixed(node.meta["val"])[at + 1 :]]


def _convolve(
    sweep: Sweep, node: fx.Node, axis: Axis, inner: int, dim: int, blocks: Any, spread: Any, out: Axis
) -> None:
    """Note the contraction; a depthwise convolution is none, as its input and output are one dim."""
    rows = sweep.rows(axis, node)
    if rows is None or (inner == 1 and node in sweep.notes):
        return
    data, weight = node.args[:2]
    operands = ((data, len(sweep.of(data)) - len(sweep.of(weight)) + 1),)
    if weight in sweep.computed:
        sweep.contractions.append(Contraction(node, rows, operands))  # type: ignore[arg-type]
    else:
        out_rows = sweep.rows(out, node)
        sweep.contractions.append(Contraction(node, rows, operands, weight, dim, blocks, spread, out_rows))  # type: ignore[arg-type]


def _of_unknown_groups(sweep: Sweep, node: fx.Node) -> Axes:
    """Everything stays, as where the examples of a batch stand side by side as groups, each with a kernel of its own."""
    for operand in node.all_input_nodes:
        sweep.pin(sweep.of(operand), node, "the number of groups is known only when the model runs")
    return sweep.fixed(node.meta["val"])


def split_groups(sweep: Sweep, node: fx.Node, axis: Axis, groups: int) -> tuple[Axis, Axis]:
    """Channels as groups and channels in a group."""
    if groups == 1:
        return (1,), axis
    parts = ax.reshape(sweep.atoms, [axis], [groups, ax.length(axis) // groups], sweep.because(node, _GROUPING))
    sweep.notes[node] = parts[0]
    return parts[0], parts[1]


@rule("convolution", rewrite=_groups)
def either_convolution(sweep: Sweep, node: fx.Node) -> Axes:
    """The op that others are decomposed to; an argument says whether it is transposed."""
    return transposed_convolution(sweep, node) if arguments(node)["transposed"] else convolution(sweep, node)
