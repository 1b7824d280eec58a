"""Give channels the same range in the layer that produces them and in the layer that reads them."""

from __future__ import annotations

from collections import Counter

import torch

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments
from fxopt.passes.quant.equalization.balance import BALANCED, SWEEPS, Matrix, balance, ranges
from fxopt.passes.quant.equalization.channel_ids import Channels, LayerChannels
from fxopt.passes.quant.equalization.channels import find_channels
from fxopt.passes.quant.equalization.homogeneous import not_homogeneous
from fxopt.passes.quant.equalization.layers import grouped, ungrouped


@graph_pass
def equalize(program: Program) -> None:
    """Equalize channel ranges across consecutive layers (cross-layer equalization).

    A channel can be divided by s > 0 where it is produced and multiplied by s where it is read, if all ops in between are
    positively homogeneous (f(s · x) = s · f(x)): relu, leaky relu, pools, sums and concatenations of
    such channels, reshapes. With s = sqrt(r1 · r2) / r2, where r1 and r2 are the channel's largest weights in the two
    layers, both are equal afterwards (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
    Correction", eq. 11); this is repeated over all pairs until nothing changes. Convolutions (grouped, depthwise, transposed) and
    linears, in chains, along residual streams and with several readers. Weights and biases change, the graph does not.

    Fold batch norms first (fold_batch_norm); turn clamps such as relu6 into relu by widen_clamp, which is approximate.
    Channels that are all zeros on one side stay, and so do layers that share a weight.

    before:
        %x : f32[2,3,8,8]
        %w = param "a.weight" : f32[4,3,3,3]
        %y = aten.conv2d(%x, %w)
        %r = aten.relu(%y)
        %v = param "b.weight" : f32[5,4,1,1]
        %z = aten.conv2d(%r, %v)
        return %z
    after:
        %x : f32[2,3,8,8]
        %w = param "a.weight" : f32[4,3,3,3]
        %y = aten.conv2d(%x, %w)
        %r = aten.relu(%y)
        %v = param "b.weight" : f32[5,4,1,1]
        %z = aten.conv2d(%r, %v)
        return %z
    """
    found = find_channels(program, not_homogeneous)
    matrices = [_matrix(program, found, layer) for layer in found.layers]
    _report(program, found, matrices)
    scales, gap = balance(matrices, int(found.labels.max()) + 1)
    if gap > BALANCED:
        program.skip(
            found.layers[0].node, f"after {SWEEPS} sweeps ranges still differ by {gap:.1%}; run equalize again"
        )
    changed: dict[str, torch.Tensor] = {}
    for layer, matrix in zip(found.layers, matrices, strict=True):
        changed |= _scaled(program, layer, (-scales[matrix.made]).exp(), scales[matrix.read].exp())
    if all(bool(tensor.isfinite().all()) for tensor in changed.values()):
        program.set_tensors(changed)
    else:
        program.skip(found.layers[0].node, "equalized, some weight or bias would be beyond the range of its dtype")


def _matrix(program: Program, found: Channels, layer: LayerChannels) -> Matrix:
    magnitudes = grouped(program, layer.node).abs().amax(3)
    return Matrix(magnitudes.log().float(), found.label(layer.made), found.label(layer.read))


def _scaled(program: Program, layer: LayerChannels, out: torch.Tensor, into: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weight and bias with the outputs times ``out`` and the inputs times ``into``; nothing where both are 1."""
    if bool((out == 1).all()) and bool((into == 1).all()):
        return {}
    call, weight = arguments(layer.node), grouped(program, layer.node)
    groups, outputs, inputs, _ = weight.shape
    weight = weight * out.reshape(groups, outputs, 1, 1) * into.reshape(groups, 1, inputs, 1)
    changed = {str(call["weight"].target): ungrouped(program, layer.node, weight)}
    bias = program.tensor(call["bias"])
    if bias is not None:
        changed[str(call["bias"].target)] = (bias.detach().double() * out).to(bias.dtype)
    return changed


def _report(program: Program, found: Channels, matrices: list[Matrix]) -> None:
    for node, reason in found.left.items():
        program.skip(node, reason)
    made, read = ranges(matrices, matrices, torch.zeros(int(found.labels.max()) + 1))
    empty = (made == -torch.inf) | (read == -torch.inf)
    empty[0] = False
    for layer, matrix in zip(found.layers, matrices, strict=True):
        reasons = Counter(found.why(layer.made))
        if bool(empty[matrix.made].any()):
            reasons["the weights that make or that read it are all zero"] = int(empty[matrix.made].sum())
        for reason, count in reasons.items():
            program.skip(layer.node, f"{count} of its {len(layer.made)} channels keep their scale: {reason}")
