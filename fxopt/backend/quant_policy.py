"""The quantization policy of a backend, for its integer kernels, which the quantize pass follows.

Policy (what is quantized, and how) is data from backend and target; mechanism (observe, compute, insert) is a pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activations = Literal["uint8", "int8", "uint16", "int16"]
"""Integer formats of activations: unsigned with a zero point, signed symmetric around zero."""


@dataclass(frozen=True)
class Policy:
    """Placement and number formats. Activations have a scale per tensor; weights are symmetric int8.

    ``convolution_output``: whether a convolution's output, after the activation that its kernel fuses, is quantized too:
    ``always``, for kernels that need Q/DQ pairs on both sides; ``between_integers``, where every reader takes integers,
    for kernels that write either; or ``never``. ``chain``: op families between integer convolutions that stay in integers
    when all their inputs are. ``pairs_in_16_bits``: whether kernels add products in pairs in 16 bits, so that pairs of
    weights are bounded (:mod:`fxopt.target.int8_pairs`). ``per_channel``: a scale for each output channel of a weight, or
    one for all. ``products``: whether products of two computed values, as those of attention, are quantized too, on both
    sides. ``linear_output``: whether a linear's output, after the activation that its kernel fuses, is quantized too.
    ``one_scale``: ops whose kernels want one scale for all their inputs and their output. ``range_of``: of what a layer that
    quantizes its input as it runs takes the range: the whole ``tensor``, or each ``token``, a row of the last dimension.
    ``block_inputs``: what layers with weights in blocks read: values in ``float``, or ``token``, which they quantize likewise.
    ``unpacks_convolutions``: whether int8 weights of convolutions in float are unpacked once, as the file is loaded.
    ``block_scales``: how such kernels store the scales of blocks; bfloat16 ones must be positive.
    """

    convolution_output: Literal["always", "between_integers", "never"] = "always"
    chain: tuple[str, ...] = (
        "aten.add.Tensor", "aten.mul.Tensor", "aten.cat", "aten.max_pool2d", "aten.avg_pool2d",
        "aten.adaptive_avg_pool2d", "aten.sigmoid", "aten.leaky_relu",
    )  # fmt: skip
    pairs_in_16_bits: bool = False
    activations: Activations = "uint8"
    per_channel: bool = True
    products: bool = False
    linear_output: bool = False
    one_scale: tuple[str, ...] = ()
    range_of: Literal["tensor", "token"] = "tensor"
    unpacks_convolutions: bool = False
    block_inputs: Literal["float", "token"] = "float"
    block_scales: Literal["float32", "bfloat16"] = "float32"
