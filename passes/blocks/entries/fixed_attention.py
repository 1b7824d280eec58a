"""Fixed weights of attention in place of computed ones."""

from __future__ import annotations

import math

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry
from fxopt.passes.blocks.entries.average_attention import weighted
from fxopt.passes.blocks.sample_data import values_on


@block_entry("attention")
def fixed_attention(block: Program, samples: Samples | None) -> str | None:
    """The mean of the attention weights over samples, a matrix for each head: linear mixing of the positions.

    Queries and keys go (Tay et al. 2021, "Synthesizer", section 3.1.2, with weights of the model's own in place of random
    ones). Exact where the weights do not depend on the input. It needs a fixed number of positions.
    """
    found = weighted(block)
    if isinstance(found, str):
        return found
    if samples is None:
        return "it needs samples of what the block reads"
    product, values = found
    size = values.meta["val"].shape
    if any(isinstance(length, torch.SymInt) for length in size[-2:]):
        return "its number of positions is not fixed"
    weights = _weights_on(block, product, samples.read)
    if weights.shape[0] != len(samples.read):
        return "its heads are not in a dim of their own"
    stored = block.add_tensor("fixed_attention", weights.mean(0).to(samples.read.dtype), product)
    block.replace(product, block.call(torch.ops.aten.matmul.default, stored, values, like=product))
    return None


def _weights_on(block: Program, product: fx.Node, read: torch.Tensor) -> torch.Tensor:
    """The attention weights ``[n, heads, queries, keys]`` of samples."""
    if op_name(product) != "aten.scaled_dot_product_attention":
        return values_on(block, product.all_input_nodes[0].name, read).double()
    call = arguments(product)
    query, key = (values_on(block, call[name].name, read).double() for name in ("query", "key"))
    scale = call["scale"] if call["scale"] is not None else 1 / math.sqrt(query.shape[-1])
    return torch.softmax(query @ key.mT * scale, -1)
