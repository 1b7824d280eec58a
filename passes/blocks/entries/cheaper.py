"""An activation or a layer norm that costs less."""

from __future__ import annotations

import torch

from fxopt.ir.op_table import Trait, arguments, bounds, family, has
from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry


@block_entry("unit")
def relu_activation(block: Program, samples: Samples | None) -> str | None:
    """ReLU in place of GELU, SiLU, tanh and whatever else has no bounds to clamp to.

    It saves no MACs: it is chosen where it is measured to be faster.
    """
    end = block.outputs()[0]
    if family(end) != "unary" or not has(end, Trait.CONTINUOUS) or end.op != "call_function":
        return "it has no activation at its end"
    if bounds(end) is not None:
        return "its activation clamps already"
    (value,) = end.all_input_nodes
    block.replace(end, block.call(torch.ops.aten.relu.default, value, like=end))
    return None


@block_entry("norm")
def affine_norm(block: Program, samples: Samples | None) -> str | None:
    """A scale and a shift for each element in place of a layer norm.

    Those with the least squared error over samples, element by element; exact where mean and variance are the same for all
    inputs.
    """
    if samples is None:
        return "it needs samples of what the block reads"
    end, (value,) = block.outputs()[0], block.inputs()
    shape = arguments(end)["normalized_shape"]
    read, given = (v.double().reshape(-1, *shape) for v in (samples.read, samples.given))
    centred = read - read.mean(0)
    scale = (centred * given).mean(0) / centred.square().mean(0).clamp_min(torch.finfo(torch.float32).tiny)
    shift = given.mean(0) - scale * read.mean(0)
    stored = [v.to(samples.read.dtype) for v in (scale, shift)]
    factor, bias = (block.add_tensor(f"norm_{n}", v, end) for n, v in zip(("scale", "shift"), stored, strict=True))
    product = block.call(torch.ops.aten.mul.Tensor, value, factor, like=end)
    block.replace(end, block.call(torch.ops.aten.add.Tensor, product, bias, like=product))
    return None
