"""Zero the least important channels and remove them."""

from __future__ import annotations

from fxopt import Pass, graph_pass
from fxopt.passes.prune.shrink import shrink
from fxopt.passes.prune.zero_channels import zero_channels


@graph_pass(options_of=zero_channels, stage="width", one_of=(("ratio", "macs", "params", "latency"),))
def prune_channels(zero: Pass) -> tuple[Pass, ...]:
    """Remove the least important channels, heads or groups: zero_channels, then shrink.

    The options are those of zero_channels. The first step changes values, and its error is measured; the second changes
    shapes, and is proved.

    before:
        %x : f32[2,4]
        %w = param "up.weight" : f32[2,4]
        %v = param "down.weight" : f32[2,2]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y
    after:
        %x : f32[2,4]
        %w = param "up.weight" : f32[1,4]
        %v = param "down.weight" : f32[2,1]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y
    """
    return (zero, shrink())
