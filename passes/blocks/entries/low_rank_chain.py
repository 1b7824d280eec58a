"""Layers of low rank in place of one."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Lt

from fxopt.ir.cost import counted_shapes
from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry
from fxopt.passes.blocks.entries.layers import only_weight
from fxopt.passes.common.weight_modes import SplitWeight
from fxopt.passes.lowrank.chain import Chain, Price
from fxopt.passes.lowrank.emit_chain import emit_chain
from fxopt.passes.lowrank.rank_points import choices
from fxopt.passes.lowrank.tensors import train, tucker
from fxopt.support.options import Tune


@block_entry("unit")
def low_rank_chain(
    block: Program,
    samples: Samples | None,
    *,
    form: Annotated[
        Literal["channel", "spatial", "tucker"], Tune(choices=("channel", "spatial", "tucker"))
    ] = "spatial",
    share: Annotated[float, Gt(0), Lt(1), Tune(choices=(0.5, 0.25))] = 0.5,
) -> str | None:
    """A low-rank chain for a layer: 3x3 and 1x1, 3x1 and 1x3, or 1x1, 3x3 and 1x1.

    The chain that loses least of the weight (truncated SVD; Tucker by alternation) with at most ``share`` of its MACs.
    A linear, and a convolution of one pixel, have the form "channel" alone.
    """
    weight = only_weight(block)
    if isinstance(weight, str):
        return weight
    if not weight.wide and form != "channel":
        return "a matrix has the form channel alone"
    found = choices(weight, Price(weight, counted_shapes(block)), weight.canonical(), None, form, 1)
    if isinstance(found, str):
        return found
    point = found.largest(share * found.dense.size)
    if point is None:
        return f"no chain of the form {form} has {share:g} of its MACs"
    write_chain(block, weight, point.chain)
    return None


def write_chain(block: Program, weight: SplitWeight, chain: Chain) -> None:
    """Replace the layer of a weight by a chain, whose layers start from the nearest tensor of its ranks."""
    tensor = weight.canonical()
    if len(chain.cuts) == 2:
        tensor = tucker(tensor, (chain.ranks[0], chain.ranks[1]))
    emit_chain(block, weight, train(weight, tensor, chain))
