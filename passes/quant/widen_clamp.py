"""Let clamps between layers clamp at zero alone."""

from __future__ import annotations

import math

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import bounds
from fxopt.passes.quant.equalization.channels import find_channels
from fxopt.passes.quant.equalization.homogeneous import not_homogeneous


@graph_pass(kind="approx")
def widen_clamp(program: Program) -> None:
    """Replace relu6 and other clamps from zero up by relu, so that equalize can scale channels.

    A bound does not scale with a channel, and relu has none. Nagel et al. 2019 do so before they equalize ("Data-Free
    Quantization Through Weight Equalization and Bias Correction", section 5.1.1). The pipeline measures the effect; a
    net that often reaches the bound is better left unchanged.

    before:
        %x : f32[2,3,8,8]
        %w = param "a.weight" : f32[4,3,3,3]
        %y = aten.conv2d(%x, %w)
        %r = aten.hardtanh(%y, 0.0, 6.0)
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
    found = find_channels(program, lambda node: None if _clamps_from_zero(node) else not_homogeneous(node))
    for node in [n for n in program.graph.nodes if _clamps_from_zero(n)]:
        ids = found.ids[node].flatten()
        reasons = [reason for reason in found.why(ids) if reason]
        if bool((found.label(ids) > 0).all()):
            program.replace(node, program.call(torch.ops.aten.relu.default, node.args[0], like=node))
        else:
            program.skip(node, reasons[0] if reasons else "no layer with a weight of its own makes its channels")


def _clamps_from_zero(node: fx.Node) -> bool:
    low, high = bounds(node) or (None, None)
    return low == 0 and high not in (None, math.inf)
