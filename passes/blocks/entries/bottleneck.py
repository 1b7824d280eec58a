"""A bottleneck in place of a layer."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, Lt

from fxopt.ir.cost import counted_shapes
from fxopt.ir.op_table import family
from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry
from fxopt.passes.blocks.entries.layers import insert_relu, only_weight
from fxopt.passes.blocks.entries.low_rank_chain import write_chain
from fxopt.passes.blocks.sample_data import values_on
from fxopt.passes.lowrank.chain import Price
from fxopt.passes.lowrank.rank_points import choices
from fxopt.support.options import Tune


@block_entry("unit")
def bottleneck(
    block: Program,
    samples: Samples | None,
    *,
    share: Annotated[float, Gt(0), Lt(1), Tune(choices=(0.5, 0.25))] = 0.5,
) -> str | None:
    """A bottleneck: 1x1, 3x3, ReLU, 1x1, with one width inside; for a linear, two linears with a ReLU between.

    It starts as the Tucker-2 form of the weight with both ranks equal (He et al. 2016 for the shape, Kim et al. 2016 for the
    start), at most ``share`` of the MACs. The bias before the ReLU is such that no sample is clipped, and the last bias
    compensates it: at first the ReLU changes nothing, and training may use it.
    """
    weight = only_weight(block)
    if isinstance(weight, str):
        return weight
    if weight.kind == "transposed" or weight.groups > 1 or weight.flipped:
        return "it is no plain convolution or linear"
    if samples is None:
        return "it needs samples of what the block reads"
    price = Price(weight, counted_shapes(block))
    found = choices(weight, price, weight.canonical(), None, "tucker", 1)
    assert not isinstance(found, str)
    full = min(weight.full(cut) for cut in found.spectra)
    points = (found.with_ranks(dict.fromkeys(found.spectra, rank)) for rank in range(full, 0, -1))
    fitting = (p for p in points if p is not None and p.size <= share * found.dense.size)
    point = next((p for p in fitting if len(p.chain.cuts) == len(found.spectra)), None)
    if point is None:
        return f"no bottleneck has {share:g} of its MACs"
    write_chain(block, weight, point.chain)
    block.module.recompile()
    *_, before, last = (node for node in block.graph.nodes if family(node) == "contraction")
    insert_relu(
        block, before, last, values_on(block, before.name, samples.read), 1 if weight.wide or weight.kernel else -1
    )
    return None
