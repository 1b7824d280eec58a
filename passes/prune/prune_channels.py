"""Zero the least important channels and remove them."""

from __future__ import annotations

import dataclasses

from fxopt import Pass
from fxopt.passes.prune.shrink import shrink
from fxopt.passes.prune.zero_channels import zero_channels


@dataclasses.dataclass(frozen=True)
class prune_channels(zero_channels):  # type: ignore[misc,valid-type]
    """Remove the least important channels, heads or groups: zero_channels, then shrink.

    The options are those of zero_channels. The first step changes numbers, and its error is measured; the second changes
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

    name = "prune_channels"

    def steps(self) -> tuple[Pass, ...]:
        """The lossy step and the exact one."""
        return (zero_channels(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}), shrink())
