"""Split layers into chains of low rank."""

from __future__ import annotations

from fxopt import Pass, graph_pass
from fxopt.passes.lowrank.factorize import factorize
from fxopt.passes.lowrank.truncate_rank import truncate_rank


@graph_pass(
    options_of=truncate_rank,
    stage="rank",
    one_of=(("rank", "ratio", "energy", "vbmf", "macs", "params", "latency", "metric_drop"),),
)
def low_rank(truncate: Pass) -> tuple[Pass, ...]:
    """Replace layers by low-rank chains: truncate_rank, then factorize.

    The options are those of truncate_rank. The first step changes values, and its error is measured; the second changes
    the graph, and is proved.

    before:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[8,8]
        %y = aten.linear(%x, %w)
        return %y
    after:
        %x : f32[2,8]
        %v = param "fc.weight_0" : f32[2,8]
        %h = aten.linear(%x, %v)
        %u = param "fc.weight_1" : f32[8,2]
        %y = aten.linear(%h, %u)
        return %y
    """
    return (truncate, factorize())
