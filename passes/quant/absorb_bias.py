"""Move high biases of a layer into the layer after it."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import torch
from annotated_doc import Doc
from annotated_types import Ge

from fxopt import Context, Program, graph_pass
from fxopt.ir.op_table import arguments
from fxopt.passes.quant.equalization.channel_ids import LayerChannels
from fxopt.passes.quant.equalization.channels import find_channels
from fxopt.passes.quant.equalization.layers import grouped
from fxopt.passes.quant.equalization.moments import measure_moments
from fxopt.passes.quant.equalization.shifts import not_shifting


@graph_pass(kind="approx")
def absorb_bias(
    program: Program,
    context: Context,
    *,
    images: Annotated[int, Ge(1), Doc("Training examples on which mean and deviation are measured.")] = 64,
) -> None:
    """Absorb high biases into the next layer, to narrow the range of the activations in between.

    Where nearly all values of a channel before its relu are above zero, c = max(0, mean - 3 · std) can be subtracted from
    its bias, and W · c added to the bias of the layer that reads it: relu(x - c) = relu(x) - c wherever x > c, which for a
    normal distribution is 99.865 % of the values (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization
    and Bias Correction", section 4.1.3). The paper reads mean and std off the batch norm; here they are
    measured over ``images`` training examples of the workload, as batch norms are folded by then. High biases are what
    equalize may leave, so it goes first.

    Between the two layers may be relu, pools without padding and reshapes. A convolution that pads with zeros cannot take
    a constant up, since at the border it reads zeros instead. Both layers need a bias. Raises DataError without data.

    before:
        %x : f32[2,8]
        %w = param "a.weight" : f32[3,8]
        %b = param "a.bias" : f32[3] = [100.0, 0.0, -100.0]
        %y = aten.linear(%x, %w, %b)
        %r = aten.relu(%y)
        %v = param "b.weight" : f32[4,3]
        %c = param "b.bias" : f32[4]
        %z = aten.linear(%r, %v, %c)
        return %z
    after:
        %x : f32[2,8]
        %w = param "a.weight" : f32[3,8]
        %b = param "a.bias" : f32[3]
        %y = aten.linear(%x, %w, %b)
        %r = aten.relu(%y)
        %v = param "b.weight" : f32[4,3]
        %c = param "b.bias" : f32[4]
        %z = aten.linear(%r, %v, %c)
        return %z
    """
    found = find_channels(program, not_shifting)
    layers = [layer.node for layer in found.layers]
    moments = measure_moments(program, context.workload, images, layers, "absorb_bias")
    constants = torch.zeros(len(found.labels), dtype=torch.float64)
    for layer in found.layers:
        mean, std = moments[layer.node]
        high = (mean - 3 * std).clamp(min=0)
        reasons = Counter(found.why(layer.made[high > 0]))
        for reason, count in reasons.items():
            program.skip(layer.node, f"{count} of its {len(layer.made)} channels keep a high bias: {reason}")
        if arguments(layer.node)["bias"] is not None:
            constants[layer.made] = torch.where(found.label(layer.made) > 0, high, 0.0)
        elif len(reasons) == 0 and bool(high.any()):
            program.skip(layer.node, "its results are high, but it has no bias to subtract from")
    changed = {}
    for layer in found.layers:
        moved = _read(program, layer, constants) - constants[layer.made]
        bias = program.tensor(arguments(layer.node)["bias"])
        if bias is not None and bool(moved.any()):
            changed[str(arguments(layer.node)["bias"].target)] = (bias.detach().double() + moved).to(bias.dtype)
    program.set_tensors(changed)


def _read(program: Program, layer: LayerChannels, constants: torch.Tensor) -> torch.Tensor:
    """W · c, float64 [out]: what is added to a layer's result by constants in the channels that it reads."""
    weight = grouped(program, layer.node)
    groups, _, inputs, _ = weight.shape
    return (weight.sum(3) * constants[layer.read].reshape(groups, 1, inputs)).sum(2).flatten()
