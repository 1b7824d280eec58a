"""Refit layers to their outputs in the original program."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_doc import Doc
from annotated_types import Ge

from fxopt import Context, Program, graph_pass
from fxopt.errors import DataError
from fxopt.ir.shared_copy import shared_copy
from fxopt.passes.common.variant_quality import Judge
from fxopt.passes.refit.counterparts import counterparts
from fxopt.passes.refit.refit import refit
from fxopt.support.options import Tune

_WHO = "reconstruct"


@graph_pass(kind="approx", stage="recover")
def reconstruct(
    program: Program,
    context: Context,
    *,
    samples: Annotated[int, Ge(1), Tune(choices=(64, 256)), Doc("Training examples to fit on.")] = 64,
    positions: Annotated[int, Ge(1), Doc("Positions of each example that are looked at.")] = 32,
) -> None:
    """Refit each layer by least squares to its outputs in the original program.

    The original is the program that the pipeline began with, so run this after all lossy steps: pruning, low rank,
    sparsity, weights in few bits. Each linear, product with a stored matrix and convolution, grouped ones too, gets the
    weights that come nearest to the original layer's output for its present input, with the layers before it refitted
    already (He, Zhang & Sun 2017, eq. 1; Zhang et al. 2016, section 3.3). Nothing is trained, and no label is needed.

    Zeros stay zero: masks, N:M, channels that are to be removed. A layer is found by the name of its weight. Channels that
    shrink removed are left out of its target. Of a low-rank chain, the last layer is refitted; of a weight that
    quantize_weights has quantized, the scales. Folded batch norms belong to their layer. A layer without a counterpart is
    left with the reason, as is one that would be no better on the fifth of the examples that every fit holds out. If all
    of them together bring the outputs on validation examples no nearer to the original's, the program stays as it is.

    ``samples`` training examples run through both programs once for every layer on the longest path, up to that layer;
    ``positions`` of each are used. Memory does not grow with either. Run it before quantize, whose rounding
    and correct_bias do this for integers. Raises DataError without usable data, or without an original.

    behind: zero_channels
    before:
        %x : f32[8,4]
        %w = param "up.weight" : f32[8,4]
        %v = param "down.weight" : f32[2,8]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y
    after:
        %x : f32[8,4]
        %w = param "up.weight" : f32[8,4]
        %v = param "down.weight" : f32[2,8]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y

    Half of the channels between are zeroed, and the others determine what these did: the outputs are as before.
    """
    original = context.original
    if original is None:
        raise DataError(f"{_WHO} has no original to follow: run it in a pipeline, after a lossy pass")
    pairs, reasons = counterparts(original, program)
    for node, reason in reasons.items():
        program.skip(node, f"not refitted: {reason}")
    if not pairs:
        return
    judge = Judge(original, context.workload, _WHO, context.device)
    before, as_it_was = judge.sqnr(program), shared_copy(program)
    if before == math.inf:
        program.skip(program.graph.output_node(), "its outputs are the original's")
        return
    refit(
        original,
        program,
        context.workload,
        pairs,
        samples=samples,
        positions=positions,
        who=_WHO,
        device=context.device,
    )
    if judge.sqnr(program) <= before:
        program.set_tensors(as_it_was.tensors())
        output = program.graph.output_node()
        program.skip(
            output, f"the layers refitted would bring it no nearer to the original's, {before:.1f} dB: all stay"
        )
