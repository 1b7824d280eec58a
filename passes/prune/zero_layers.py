"""Zero the least important residual branches."""

from __future__ import annotations

from typing import Annotated

from annotated_doc import Doc
from annotated_types import Ge, Gt, Lt

from fxopt import Context, Program, graph_pass
from fxopt.errors import OptionError
from fxopt.ir.op_table import find_quantized
from fxopt.passes.prune.depth.branch_weights import zero_sites
from fxopt.passes.prune.depth.choose_layers import LayerChooser
from fxopt.passes.prune.depth.layer_importance import Asked, By, ScoredBranch, layer_scores
from fxopt.passes.prune.depth.removable_layers import removable_layers
from fxopt.support.options import Tune, With

_WHO = "zero_layers"
_QUARTER = 0.25


@graph_pass(kind="approx")
def zero_layers(
    program: Program,
    context: Context,
    *,
    ratio: Annotated[float, Ge(0), Lt(1), Tune(0.1, 0.6), Doc("Share of the residual branches that goes, at most.")]
    | None = None,
    macs: Annotated[float, Gt(0), Doc("Multiply-accumulates to be left, as a share up to 1 or as a number.")]
    | None = None,
    by: Annotated[By, Tune(choices=("similarity", "loss")), Doc("Importance of a branch.")] = "similarity",
    keep: Annotated[tuple[str, ...], Doc("Weights or modules whose branches stay, with wildcards.")] = (),
    samples: Annotated[int, Ge(1), With(by="taylor"), Doc("Training examples for a criterion that needs data.")] = 64,
    seed: Annotated[int, With(by="random"), Doc("Seed of a random choice.")] = 0,
) -> None:
    """Zero the least important residual branches, so that drop_zero_branches can remove them.

    A branch is computed from a stream of values and added to it: a block of a ResNet that keeps its shape, attention or
    the MLP of a transformer. Its last weights are zeroed: weight and bias of the last layer, gamma and beta of a
    norm, the scale of a layer. A sum with a projection is no such branch; it stays, and is reported with the reason.

    How much goes is a ``ratio`` of the branches, at most, or as much as brings the MACs down to ``macs``, a share up to 1 or
    a number. By default a quarter goes. A branch inside another goes with it, and counts.

    ``by`` is the importance: similarity (cosine of the stream before and after; Men et al. 2024, eq. 1), magnitude, taylor, loss,
    random; see passes/prune/depth/layer_importance.py. taylor and loss need data, and similarity takes them where there are any;
    ``samples`` is the number of training examples. ``keep`` names weights or modules, by pattern, whose branches stay.

    A program without a branch that can go does not change, nor does one of which the ratio is less than one branch: that is
    reported.

    Raises OptionError, BudgetError for MACs that cannot be met, DataError where data is needed and absent, and PassError
    for a quantized program.

    before:
        %x : f32[2,4]
        %a = param "a.weight" : f32[4,4]
        %b = param "b.weight" : f32[4,4]
        %c = param "c.weight" : f32[4,4]
        %d = param "d.weight" : f32[4,4]
        %f = aten.linear(%x, %a); %x1 = aten.add.Tensor(%x, %f)
        %g = aten.linear(%x1, %b); %x2 = aten.add.Tensor(%x1, %g)
        %h = aten.linear(%x2, %c); %x3 = aten.add.Tensor(%x2, %h)
        %i = aten.linear(%x3, %d); %x4 = aten.add.Tensor(%x3, %i)
        return %x4
    after:
        %x : f32[2,4]
        %a = param "a.weight" : f32[4,4]
        %b = param "b.weight" : f32[4,4]
        %c = param "c.weight" : f32[4,4]
        %d = param "d.weight" : f32[4,4]
        %f = aten.linear(%x, %a); %x1 = aten.add.Tensor(%x, %f)
        %g = aten.linear(%x1, %b); %x2 = aten.add.Tensor(%x1, %g)
        %h = aten.linear(%x2, %c); %x3 = aten.add.Tensor(%x2, %h)
        %i = aten.linear(%x3, %d); %x4 = aten.add.Tensor(%x3, %i)
        return %x4
    """
    quantized = find_quantized(program.graph)
    if quantized is not None:
        raise program.fail(quantized, f"{_WHO}: the program is quantized; prune first, quantize after all other passes")
    if ratio is not None and macs is not None:
        raise OptionError(f"{_WHO}: give either ratio= or macs=, not both")
    layers = removable_layers(program, keep, _WHO)
    share = _QUARTER if ratio is None else ratio
    if macs is None and share * len(layers) + 1e-9 < 1:
        _report_too_few(program, layers, share)
        return
    asked = Asked(program, context.workload, layers, samples, seed, f"{_WHO}(by={by!r})", context.device)
    scores = layer_scores(asked, by) if layers else []
    chooser = LayerChooser(program, [layer.branch for layer in layers], _WHO)
    taken = chooser.by_ratio(scores, share) if macs is None else chooser.by_macs(scores, macs)
    zero_sites(program, [site for i in taken for site in layers[i].sites])


def _report_too_few(program: Program, layers: tuple[ScoredBranch, ...], ratio: float) -> None:
    """Report that nothing can go, or that the ratio is less than one branch; nothing where nothing was to go."""
    if not layers:
        program.skip(program.graph.output_node(), "the program has no residual branch that can go")
    elif ratio:
        count = f"{len(layers)} residual branch{'es' * (len(layers) > 1)}"
        reason = f"ratio {ratio:g} of {count} is less than one; from {1 / len(layers):.2g} on one goes"
        program.skip(layers[0].branch.total, reason)
