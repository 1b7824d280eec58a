"""Depthwise and pointwise convolutions in place of a dense one."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge

from fxopt.ir.program import Program
from fxopt.pass_manager.block_entry import Samples, block_entry
from fxopt.passes.blocks.entries.layers import Layers, only_convolution
from fxopt.support.options import Tune

Terms = Annotated[int, Ge(1), Tune(choices=(1, 2))]


@block_entry("unit")
def depthwise_pointwise(block: Program, samples: Samples | None, *, terms: Terms = 1) -> str | None:
    """A depthwise convolution with several kernels a channel, then a pointwise one.

    The weight of each input channel is a matrix [out, kernel], of which the largest singular values are kept, ``terms`` of
    them: the best approximation, and exact with as many terms as the kernel has pixels (Guo et al. 2018, "Network
    decoupling", theorem 1).
    """
    found = only_convolution(block)
    if isinstance(found, str):
        return found
    outs, ins = found.weight.shape[:2]
    left, right = _terms(found.weight.flatten(2).transpose(0, 1), terms)  # [in, out, r], [in, r, pixels]
    layers = Layers(block, found)
    layers.spatial(right.reshape(-1, 1, *found.kernel), groups=ins)
    layers.pointwise(left.permute(1, 0, 2).reshape(outs, -1), bias=found.call["bias"])
    layers.done()
    return None


@block_entry("unit")
def pointwise_depthwise(block: Program, samples: Samples | None, *, terms: Terms = 1) -> str | None:
    """A pointwise convolution, then a depthwise one over the few values of each output channel.

    The weight of each output channel is a matrix [in, kernel], of which the largest singular values are kept, ``terms`` of
    them (Guo et al. 2018, "Network decoupling", theorem 1).
    """
    found = only_convolution(block)
    if isinstance(found, str):
        return found
    outs = len(found.weight)
    left, right = _terms(found.weight.flatten(2), terms)  # [out, in, r], [out, r, pixels]
    layers = Layers(block, found)
    layers.pointwise(left.transpose(1, 2).flatten(0, 1))
    layers.spatial(right.reshape(outs, -1, *found.kernel), groups=outs, bias=found.call["bias"])
    layers.done()
    return None


def _terms(matrices: torch.Tensor, terms: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors ``[..., m, r]`` and ``[..., r, n]`` of the nearest matrices of rank r, of equal norm term by term."""
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    root = values[..., :terms].sqrt()
    return left[..., :terms] * root[..., None, :], right[..., :terms, :] * root[..., None]
