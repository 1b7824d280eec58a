"""Turn layer norms into RMS norms."""

from __future__ import annotations

from typing import Annotated

from annotated_doc import Doc
from annotated_types import Ge

from fxopt import Pass, graph_pass
from fxopt.passes.fuse.merge_rms_norm import merge_rms_norm
from fxopt.passes.stream.center_stream import center_stream
from fxopt.passes.stream.fold_layer_scale import fold_layer_scale


@graph_pass
def layer_norm_to_rms_norm(
    *, matrices: Annotated[float, Ge(0), Doc("Share of the MACs that inserted matrices may cost.")] = 0.05
) -> tuple[Pass, ...]:
    """Turn layer norms into RMS norms: merge_rms_norm, fold_layer_scale, then center_stream.

    A layer norm pins the residual stream of a transformer; from one with RMS norms channels can be removed, and it can be
    turned into another basis by rotate_stream. The mean goes into whatever writes the stream, the affine part into what
    reads the norms; see center_stream, which ``matrices`` is for. RMS norms that are written out become one op, and layer
    scales go into the layers before them. Each step is proved on its own (Ashkboos et al. 2024, SliceGPT, section 3.2).

    before:
        %x : f32[2,4]
        %w = param "up.weight" : f32[3,4]
        %g = param "norm.weight" : f32[3]
        %b = param "norm.bias" : f32[3]
        %v = param "down.weight" : f32[2,3]
        %h = aten.linear(%x, %w)
        %n = aten.layer_norm(%h, [3], %g, %b, 1e-05)
        %y = aten.linear(%n, %v)
        return %y
    after:
        %x : f32[2,4]
        %w = param "up.weight" : f32[3,4]
        %h = aten.linear(%x, %w)
        %n = aten.rms_norm(%h, [3], None, 1e-05)
        %v = param "down.weight" : f32[2,3]
        %c = param "down.bias" : f32[2]
        %y = aten.linear(%n, %v, %c)
        return %y
    """
    return (merge_rms_norm(), fold_layer_scale(), center_stream(matrices=matrices))
