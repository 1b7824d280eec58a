"""What a backend's integer kernels want of quantization: the policy that a backend hands to the quantize pass.

Policy (what is quantized, and how) is data from backend and target; mechanism (observe, compute, insert) is a pass.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """Placement and number formats. Activations are per tensor, weights symmetric int8 per output channel.

    ``convolution`` and ``linear``: whether these are quantized at all. ``convolution_output``: also quantize what a
    convolution (after its activation) gives, which kernels that run only between two Q/DQ pairs need.
    ``chain``: keep residual adds, concatenations and pools between integer convolutions in integers.
    ``bias``: give biases as int32 with scale activation × weight. ``signed_activations``: int8 instead of uint8.
    ``pair_sum``: the largest sum of two weight codes that a kernel can multiply by 255 without overflow, None if any.
    """

    convolution: bool = True
    linear: bool = True
    convolution_output: bool = True
    chain: bool = True
    bias: bool = True
    signed_activations: bool = False
    pair_sum: int | None = None
