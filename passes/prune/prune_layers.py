"""Zero the least important residual branches and remove them."""

from __future__ import annotations

from fxopt import Pass, graph_pass
from fxopt.passes.prune.drop_zero_branches import drop_zero_branches
from fxopt.passes.prune.shrink import shrink
from fxopt.passes.prune.zero_layers import zero_layers


@graph_pass(options_of=zero_layers, stage="arch", one_of=(("ratio", "macs"),))
def prune_layers(zero: Pass) -> tuple[Pass, ...]:
    """Remove the least important residual branches: zero_layers, then drop_zero_branches and shrink.

    The options are those of zero_layers. The first step changes values, and its error is measured; the others change
    the graph, and are proved.

    before:
        %x : f32[2,4]
        %a = param "a.weight" : f32[4,4]
        %b = param "b.weight" : f32[4,4]
        %t = aten.tanh(%x)
        %f = aten.linear(%t, %a); %x1 = aten.add.Tensor(%t, %f)
        %r = aten.relu(%x1)
        %g = aten.linear(%r, %b); %u = aten.mul.Tensor(%g, 0.001); %x2 = aten.add.Tensor(%r, %u)
        %h = aten.linear(%x2, %a); %x3 = aten.add.Tensor(%x2, %h)
        %i = aten.linear(%x3, %a); %x4 = aten.add.Tensor(%x3, %i)
        return %x4
    after:
        %x : f32[2,4]
        %a = param "a.weight" : f32[4,4]
        %t = aten.tanh(%x)
        %f = aten.linear(%t, %a); %x1 = aten.add.Tensor(%t, %f)
        %r = aten.relu(%x1)
        %h = aten.linear(%r, %a); %x3 = aten.add.Tensor(%r, %h)
        %i = aten.linear(%x3, %a); %x4 = aten.add.Tensor(%x3, %i)
        return %x4
    """
    return (zero, drop_zero_branches(), shrink())
