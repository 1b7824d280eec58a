"""The vision transformer of `small_vit` made smaller for the digits, and the same function with a few outlier channels."""

from __future__ import annotations

import copy

import cases.trained
import torch
from torch import nn

from fxopt.models.small_vit import SmallViT
from fxopt.workload import Workload


def digits_net() -> SmallViT:
    """float32 [N,1,8,8] -> scores [N,10], untrained."""
    return SmallViT(10, stem=((32, 1),), width=64, heads=4, depth=3)


def with_outliers(module: SmallViT, factor: float = 50.0, channels: int = 3) -> SmallViT:
    """A copy that computes the same, in which the first ``channels`` of every norm in a block are ``factor`` times as large.

    The linear that reads them undoes it. Transformers grow such channels by themselves (Dettmers et al. 2022).
    """
    result = copy.deepcopy(module)
    with torch.no_grad():
        for block in result.blocks:
            for norm, linear in ((block.norm, block.qkv), (block.norm2, block.up)):
                norm.weight[:channels] *= factor
                norm.bias[:channels] *= factor
                linear.weight[:, :channels] /= factor
    return result


def trained(epochs: int = 30, seed: int = 0) -> SmallViT:
    """The network trained on the digits, in evaluation mode: seconds, some 97 % top-1."""
    return cases.trained.trained(digits_net, "digits", epochs=epochs, lr=2e-3, weight_decay=0.02, seed=seed)


def workload_of(net: nn.Module) -> Workload:
    """The digits with another network."""
    return cases.trained.with_network("digits", "digits_vit", net)
