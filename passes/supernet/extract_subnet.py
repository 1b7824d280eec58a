"""Make a sub-network of a supernet a program of its own."""

from __future__ import annotations

from fxopt import Pass, graph_pass
from fxopt.passes.prune.drop_zero_branches import drop_zero_branches
from fxopt.passes.prune.shrink import shrink
from fxopt.passes.supernet.zero_subnet import zero_subnet


@graph_pass(options_of=zero_subnet)
def extract_subnet(zero: Pass) -> tuple[Pass, ...]:
    """Make a sub-network a program of its own: zero_subnet, then drop_zero_branches and shrink.

    The options are those of zero_subnet. The first step changes values, and its error is measured; the others change
    the graph, and are proved.

    before:
        %x : f32[2,4]
        %w = param "up.weight" : f32[3,4]
        %v = param "down.weight" : f32[2,3]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y
    after:
        %x : f32[2,4]
        %w = param "up.weight" : f32[2,4]
        %v = param "down.weight" : f32[2,2]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y
    """
    return (zero, drop_zero_branches(), shrink())
