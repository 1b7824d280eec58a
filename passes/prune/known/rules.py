"""The rule of each op for :mod:`fxopt.passes.prune.known.values`; of an op without one, nothing is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from fxopt.ir.op_table import TABLE, TRANSPOSED, Trait, named
from fxopt.ir.printer import op_name
from fxopt.passes.prune.known import elementwise as element
from fxopt.passes.prune.known import layout as layout
from fxopt.passes.prune.known import sums as sums
from fxopt.passes.prune.known.cells import Known, Of

Rule = Callable[[fx.Node, dict[str, Any], Of], Known]
"""The constants of a call's result, from its arguments by name and their constants. None if nothing is known."""

_NAMES: dict[Rule, str] = {
    # what a trait or a family does not say
    element.fill: "zeros ones full new_zeros new_ones new_full zeros_like ones_like full_like scalar_tensor zero_ fill_.Scalar",
    element.copy: "copy_",
    element.add: "add.Tensor add.Scalar",
    element.sub: "sub.Tensor sub.Scalar",
    element.rsub: "rsub.Tensor rsub.Scalar",
    element.mul: "mul.Tensor mul.Scalar",
    element.div: "div.Tensor div.Scalar",
    element.extreme: "maximum minimum",
    element.where: "where.self where.ScalarSelf where.ScalarOther where.Scalar",
    element.masked_fill: "masked_fill.Scalar masked_fill.Tensor",
    element.batch_norm: "batch_norm _native_batch_norm_legit_no_training",
    element.layer_norm: "layer_norm",
    element.rms_norm: "rms_norm",
    element.channel_norm: "group_norm instance_norm",
    layout.reshape: "view reshape flatten.using_ints unflatten.int _unsafe_view view_as reshape_as squeeze squeeze.dim "
    "squeeze.dims unsqueeze",
    layout.permute: "permute transpose.int t numpy_T swapaxes movedim.int movedim.intlist adjoint mT",
    layout.move: "flip roll",
    layout.shuffle: "pixel_shuffle pixel_unshuffle",
    layout.expand: "expand expand_as broadcast_to",
    layout.repeat: "repeat tile",
    layout.repeat_interleave: "repeat_interleave.self_int",
    layout.pick: "slice.Tensor select.int split.Tensor split_with_sizes split.sizes chunk tensor_split.sections "
    "tensor_split.indices unbind.int narrow",
    layout.index: "index.Tensor index_select embedding",
    layout.triangle: "tril triu",
    layout.join: "cat concat stack",
    layout.pad: "pad constant_pad_nd reflection_pad2d replication_pad2d",
    sums.linear: "linear",
    sums.matmul: "matmul mm bmm mv",
    sums.addmm: "addmm baddbmm",
    sums.attention: "scaled_dot_product_attention",
    sums.einsum: "einsum",
    sums.reduce: "sum sum.dim_IntList linalg_vector_norm norm.ScalarOpt_dim mean mean.dim amax amin max min max.dim min.dim",
}

RULES: dict[str, Rule] = {
    **dict.fromkeys(named(Trait.ZERO_PRESERVING), element.zeros),
    # continuous functions alone: the constants are not exact, and rounding them would be a step
    **dict.fromkeys(named(Trait.CONTINUOUS, "unary"), element.unary),
    **dict.fromkeys((*named(Trait.SAME_VALUE), *named(Trait.CAST)), element.same),
    **dict.fromkeys(named(Trait.DROPOUT), element.dropout),
    **{name: sums.pool for name, row in TABLE.items() if row.family == "pool"},
    **{name: sums.resample for name, row in TABLE.items() if row.family == "resample"},
    **{f"aten.{name}": rule for rule, names in _NAMES.items() for name in names.split()},
    **dict.fromkeys((*sums.CONVOLUTION_NAMES, *TRANSPOSED), sums.convolution),
}


def rule_of(node: fx.Node) -> Rule | None:
    """The rule of a call; an in-place op has that of its functional twin."""
    name = op_name(node)
    packet, dot, overload = name.removeprefix("aten.").partition(".")
    if name in RULES or not packet.endswith("_"):
        return RULES.get(name)
    rule = RULES.get(f"aten.{packet[:-1]}{dot}{overload}")
    return rule if rule is not None and rule.__module__ == element.__name__ else None  # none that changes the shape
