"""Fold a layer scale into the layer before it."""

from __future__ import annotations

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.passes.stream.channels import Source, sizes, sources
from fxopt.passes.stream.layers import Held, WeightChanges, scaled, written_by


@graph_pass(assumes_finite=True)
def fold_layer_scale(program: Program) -> None:
    """Fold a multiplication by one number for each channel into the layer that makes the channels.

    Transformers and ConvNeXt scale what they add to the stream in this way (Touvron et al. 2021, "Going deeper with image
    transformers", eq. 12). The product of diag(γ) and the layer's weight and bias is stored in their place, where nothing
    else reads the layer.

    before:
        %x : f32[2,4]
        %w = param "fc.weight" : f32[3,4]
        %b = param "fc.bias" : f32[3]
        %g = param "scale" : f32[3]
        %h = aten.linear(%x, %w, %b)
        %y = aten.mul.Tensor(%h, %g)
        return %y
    after:
        %x : f32[2,4]
        %w = param "fc.weight" : f32[3,4]
        %b = param "fc.bias" : f32[3]
        %h = aten.linear(%x, %w, %b)
        return %h
    """
    for product in program.find("aten.mul.Tensor"):
        for value, factor in (product.args[:2], product.args[1::-1]):
            vector = program.tensor(factor)
            dim = _only_dim(vector, len(sizes(product)))
            if vector is None or dim is None or not isinstance(value, fx.Node) or sizes(value) != sizes(product):
                continue
            layer = _layer(program, product, (value, dim), vector.numel())
            if not isinstance(layer, list):
                program.skip(product, layer)
                break
            changes = WeightChanges(program)
            for held in layer:
                changes.ask(held, product.name, scaled(vector.detach().double().flatten(), held.dim))
            changes.apply()
            program.replace(product, value)
            break


def _only_dim(vector: torch.Tensor | None, rank: int) -> int | None:
    """The dim of a result of that rank along which a stored tensor has its numbers, if it is only one."""
    if vector is None or not vector.is_floating_point():
        return None
    wide = [d for d, size in enumerate(vector.shape) if size > 1]
    return wide[0] + rank - vector.dim() if len(wide) == 1 else None


def _layer(program: Program, product: fx.Node, source: Source, channels: int) -> list[Held] | str:
    """The weights that make the channels of a product, or why they cannot take its factors."""
    node, dim = source
    reader = product
    while True:
        if set(node.users) != {reader}:
            return "what it scales is read by others as well"
        if held := written_by(program, node, dim):
            return held
        above = sources(node, dim, channels)
        if len(above) != 1:
            return "what it scales is made by no layer that could take its factors"
        reader, (node, dim) = node, above[0]
