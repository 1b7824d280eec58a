"""An inverted bottleneck in place of a convolution."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry
from fxopt.passes.blocks.entries.layers import Layers, insert_relu, only_convolution
from fxopt.passes.blocks.least_squares import fit, output_of
from fxopt.passes.blocks.sample_data import values_on
from fxopt.passes.lowrank.tensors import cp
from fxopt.support.options import Tune


@block_entry("unit")
def inverted_bottleneck(
    block: Program,
    samples: Samples | None,
    *,
    expansion: Annotated[float, Gt(0), Tune(choices=(1.0, 2.0))] = 2.0,
) -> str | None:
    """A pointwise convolution to more channels, a depthwise one, ReLU, and a pointwise one back.

    There are ``expansion`` times the input's channels inside (Sandler et al. 2018, "MobileNetV2", section 3.3). It starts
    as the CP form of the weight [out, in, pixels] with as many terms (Lebedev et al. 2015), its last layer refitted by least
    squares on samples. The bias before the ReLU is such that no sample is clipped, and the last bias compensates it: at first
    the ReLU changes nothing, and training may use it.
    There is none before the depthwise convolution: its padding would read zeros where the shifted values are none.
    """
    found = only_convolution(block)
    if isinstance(found, str):
        return found
    if samples is None:
        return "it needs samples of what the block reads"
    ins = found.weight.shape[1]
    terms = max(1, round(expansion * ins))
    factors = cp(found.weight.flatten(2), terms)
    if factors is None:
        return f"its weight has no CP form of {terms} terms near it"
    project, expand, kernels = factors  # [out, r], [in, r], [pixels, r]
    want = output_of(block, found.node, samples.read)
    layers = Layers(block, found)
    layers.pointwise(expand.T)
    layers.spatial(kernels.T.reshape(terms, 1, *found.kernel), groups=terms)
    depthwise = layers.value
    layers.pointwise(project, bias=found.call["bias"])
    last = layers.done()
    block.module.recompile()
    inside = values_on(block, depthwise.name, samples.read)
    fit(block, last, inside, want)
    insert_relu(block, depthwise, last, inside, 1)
    return None
