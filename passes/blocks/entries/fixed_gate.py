"""Constant weights of channels in place of computed ones."""

from __future__ import annotations

from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry
from fxopt.passes.blocks.sample_data import values_on


@block_entry("gate")
def fixed_gate(block: Program, samples: Samples | None) -> str | None:
    """A product with the mean of a squeeze-and-excitation gate over samples: one factor per channel.

    Exact for a gate that is the same for all inputs.
    """
    if samples is None:
        return "it needs samples of what the block reads"
    product, (value,) = block.outputs()[0], block.inputs()
    gate = next(node for node in product.all_input_nodes if node is not value)
    mean = block.add_tensor("gate", values_on(block, gate.name, samples.read).mean(0, keepdim=True), product)
    product.replace_input_with(gate, mean)
    return None
