"""Statistics: per channel they keep a dim, over a dim they pin it or, where zeros do not count, sum over it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import arguments, set_argument
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.cut import Cut
from fxopt.passes.prune.coupling.rules_contraction import contract
from fxopt.passes.prune.coupling.rules_reduce import scale_result
from fxopt.passes.prune.coupling.sweep import Axes, Sweep
from fxopt.passes.prune.coupling.table import rule

_NORMALIZED = "it is normalised over this dim"


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training")
def per_channel(sweep: Sweep, node: fx.Node) -> Any:
    """Statistics and parameters belong to dim 1; those of the input itself are taken over other dims."""
    call = arguments(node)
    axes = sweep.of(call["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if parameters := sweep.of(call[name]):
            axes[1] = sweep.unite(axes[1], parameters[0], node)
    if call.get("training"):
        sweep.pin([axes[0], *axes[2:]], node, _NORMALIZED)
    if call.get("use_input_stats"):  # of each image alone, but their mean over the batch is written
        sweep.pin(axes[2:] if call["running_mean"] is None else [axes[0], *axes[2:]], node, _NORMALIZED)
    value = node.meta["val"]
    return axes if isinstance(value, torch.Tensor) else [axes, *sweep.fixed(value[1:])]


@rule("layer_norm")
def layer_norm(sweep: Sweep, node: fx.Node) -> Axes:
    """Over the last dims: none of their indices can go without a change of all."""
    call = arguments(node)
    axes, rank = sweep.of(call["input"]), len(call["normalized_shape"])
    sweep.pin(axes[-rank:], node, _NORMALIZED)
    for name in ("weight", "bias"):
        if sweep.of(call[name]):
            sweep.broadcast([axes[-rank:], sweep.of(call[name])], node)
    return axes


def _rms(cut: Cut, node: fx.Node) -> None:
    """With n channels left of m, the mean of squares is n / m of what it was: eps and the weight make up for it.

    With s the sum of squares, s / m + eps = (n / m) (s / n + eps m / n), so that the result is larger by sqrt(m / n).
    """
    call = arguments(node)
    last = cut.sweep.of(node)[-len(call["normalized_shape"]) :]
    ratio = math.prod(cut.count(axis)[1] / cut.count(axis)[0] for axis in last)
    if ratio == 1:
        return
    eps = call["eps"] if call["eps"] is not None else torch.finfo(node.args[0].meta["val"].dtype).eps  # type: ignore[union-attr]
    set_argument(
        node, "normalized_shape", [cut.size(a, n, node) for a, n in zip(last, call["normalized_shape"], strict=True)]
    )
    set_argument(node, "eps", eps / ratio)
    scale_result(cut, node, ratio**-0.5)


@rule("rms_norm", rewrite=_rms)
def rms_norm(sweep: Sweep, node: fx.Node) -> Axes:
    """Over the last dims; channels that are zero may go (Zhang and Sennrich 2019, eq. 4)."""
    call = arguments(node)
    axes, rank = sweep.of(call["input"]), len(call["normalized_shape"])
    if sweep.of(call["weight"]):
        axes[-rank:] = sweep.broadcast([axes[-rank:], sweep.of(call["weight"])], node)
    summed = range(len(axes) - rank, len(axes))
    for i in summed:
        contract(sweep, node, axes[i], (call["input"], i), also=summed)
    return axes


@rule("_weight_norm")
def weight_norm(sweep: Sweep, node: fx.Node) -> Axes:
    """``g * v / |v|``, the norm over all dims but one; what is zero in v may go."""
    call = arguments(node)
    axes = sweep.broadcast([sweep.of(call["v"]), sweep.of(call["g"])], node)
    summed = [i for i in range(len(axes)) if call["dim"] == -1 or i != call["dim"]]
    for i in summed:
        contract(sweep, node, axes[i], (call["v"], i), also=summed)
    return axes


def _group_count(cut: Cut, node: fx.Node) -> None:
    old, new = cut.count(cut.sweep.notes[node])
    if old != new:
        set_argument(node, "num_groups", arguments(node)["num_groups"] // old * new)


@rule("group_norm", rewrite=_group_count)
def group_norm(sweep: Sweep, node: fx.Node) -> Axes:
    """Over the channels of a group and all positions; a whole group may go."""
    call = arguments(node)
    axes, groups = sweep.of(call["input"]), call["num_groups"]
    for name in ("weight", "bias"):
        if parameters := sweep.of(call[name]):
            axes[1] = sweep.unite(axes[1], parameters[0], node)
    reason = sweep.because(node, "its channels are grouped in another way elsewhere")
    parts = ax.reshape(sweep.atoms, [axes[1]], [groups, ax.length(axes[1]) // groups], reason)
    sweep.pin([parts[1], *axes[2:]], node, _NORMALIZED)
    sweep.notes[node] = parts[0]
    return axes


@rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def softmax(sweep: Sweep, node: fx.Node) -> Axes:
    """Every index counts for all others."""
    axes = sweep.of(node.args[0])
    sweep.pin([axes[arguments(node)["dim"]]], node, "softmax over this dim")
    return axes
