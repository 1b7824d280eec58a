"""Zero the least important channels, heads or groups."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_doc import Doc
from annotated_types import Ge, Gt, Lt

from fxopt import Context, Program, graph_pass
from fxopt.errors import BudgetError, OptionError
from fxopt.ir.op_table import find_quantized
from fxopt.ir.shared_copy import shared_copy
from fxopt.passes.common.channel_multiple import multiple_for
from fxopt.passes.common.latency_budget import read_latency
from fxopt.passes.prune.choice.budget import CostBudget, within
from fxopt.passes.prune.choice.candidates import candidates
from fxopt.passes.prune.choice.chooser import Chooser, Dead, Scope
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.groups import Unit
from fxopt.passes.prune.coupling.leftover import report_pinned
from fxopt.passes.prune.coupling.sweep import Sweep
from fxopt.passes.prune.importance.score import Name, Normalize, Reduce, score
from fxopt.passes.prune.zeroing import check_computed_weights, zero
from fxopt.passes.refit.counterparts import counterparts
from fxopt.passes.refit.refit import refit
from fxopt.support.options import Tune, With

_WHO = "zero_channels"
_HALF = 0.5


@graph_pass(kind="approx")
def zero_channels(
    program: Program,
    context: Context,
    *,
    ratio: Annotated[float, Ge(0), Lt(1), Doc("Share of the channels that goes.")] | None = None,
    macs: Annotated[
        float,
        Gt(0),
        Tune(0.12, 0.9, log=True),
        Doc("Multiply-accumulates to be left, as a share up to 1 or as a number."),
    ]
    | None = None,
    params: Annotated[float, Gt(0), Doc("Parameters to be left, as a share up to 1 or as a number.")] | None = None,
    latency: Annotated[
        str | None, Doc("Latency to be left on the target: '0.5x' for half of the whole program's, or '3ms'.")
    ] = None,
    by: Annotated[
        Name | str,
        Tune(choices=("l2", "taylor")),
        Doc("Importance of a channel: a criterion, or module:function of your own."),
    ] = "l2",
    scope: Annotated[
        Scope,
        Tune(choices=("layer", "isomorphic", "global")),
        Doc("Where channels compete: in their group, among groups of one form, or among all."),
    ] = "layer",
    reduce: Annotated[Reduce, Doc("How the scores of a group's weights become one.")] = "mean",
    normalize: Annotated[
        Normalize, With(scope="global"), Doc("What the scores of a group are divided by, before groups compete.")
    ] = "mean",
    units: Annotated[tuple[Unit, ...], Doc("What may go: channels, stream, heads, head_dims; all without.")] = (),
    keep: Annotated[tuple[str, ...], Doc("Weights or modules whose channels stay, with wildcards.")] = (),
    only: Annotated[tuple[str, ...], Doc("Weights or modules that alone lose channels, with wildcards.")] = (),
    min_channels: Annotated[int, Ge(1), Doc("Channels that a group keeps at least.")] = 1,
    multiple: Annotated[
        int,
        Ge(1),
        Doc("Channels that a group keeps are a multiple of this; 'target' measures which one its kernels like."),
    ]
    | Literal["target"] = 1,
    reconstruct: Annotated[bool, Doc("Refit what reads the channels by least squares.")] = False,
    samples: Annotated[
        int,
        Ge(1),
        With(by="taylor"),
        With(reconstruct=True),
        Doc("Training examples for the criterion, and to refit on."),
    ] = 64,
    seed: Annotated[int, With(by="random"), Doc("Seed of a random choice.")] = 0,
) -> None:
    """Zero the weights that read the least important channels, so that shrink can remove them.

    How much goes is a ``ratio`` of the channels, or whatever meets budgets: ``macs`` and ``params`` as a share of what
    there is (up to 1) or as a number, ``latency`` as ``"0.5x"``, half of the whole program's, or ``"3ms"``, as the backend
    builds it and the target runs it. By default half goes.

    Channels that live and die together, through residual additions and the like, are one group. ``scope`` says where
    they compete: each group for itself ("layer"), all ("global"), or groups of one form ("isomorphic").
    ``by`` is the importance: l1, l2, batch_norm, taylor, hessian, activation, wanda, fpgm, lamp, random, or ``module:function``
    of your own; see passes/prune/importance. ``reduce`` and ``normalize`` say how the weights of a group become one score.

    ``units`` are channels, stream (those that an RMS norm is over, see rotate_stream), heads (also key/value groups, groups
    of convolutions) or head_dims; without, the larger factor of each dim. ``keep`` and ``only`` name weights or modules by
    pattern. What a group keeps is at least ``min_channels`` and a ``multiple``; "target" measures which one this machine's
    kernels like.
    ``reconstruct`` refits what reads the channels by least squares on ``samples`` training examples (He et al. 2017).

    Raises OptionError, BudgetError for a budget that cannot be met, DataError where data is needed and absent, PassError
    for a quantized program. A program without anything to remove stays as it is, and the reasons are reported.

    before:
        %x : f32[2,4]
        %w = param "up.weight" : f32[2,4]
        %v = param "down.weight" : f32[2,2]
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
    quantized = find_quantized(program.graph)
    if quantized is not None:
        raise program.fail(quantized, f"{_WHO}: the program is quantized; prune first, quantize after all other passes")
    budget = CostBudget(macs, params, read_latency(latency, _WHO))
    if budget != CostBudget(None, None, None) and ratio is not None:
        raise OptionError(f"{_WHO}: give either ratio= or budgets (macs=, params=, latency=), not both")
    unbound = budget == CostBudget(None, None, None)
    sweep = couple(program)
    groups = candidates(program, sweep, units, keep, _WHO, only=only)
    report_pinned(program, sweep)
    if not groups:
        if unbound:
            return  # with the reasons reported
        raise BudgetError(_nothing(program))
    scores = score(
        program,
        sweep,
        groups,
        by=by,
        reduce=reduce,
        normalize=normalize,
        workload=context.workload,
        samples=samples,
        seed=seed,
        who=_WHO,
        device=context.device,
    )
    if multiple == "target":
        multiple = multiple_for(program, context)
    chooser = Chooser(groups, scores, scope, min_channels, multiple)
    if unbound:
        dead = chooser.dead(_HALF if ratio is None else ratio)
    else:
        dead = within(budget, program, context, sweep, chooser, _WHO)
    before = shared_copy(program) if reconstruct else None
    zero(program, sweep, dead)
    check_computed_weights(program, sweep, _WHO)
    if before is not None:
        _refit(before, program, context, sweep, dead, samples)


def _refit(before: Program, program: Program, context: Context, sweep: Sweep, dead: Dead, samples: int) -> None:
    """Refit the layers that read dead channels."""
    reads = {c.node.name for c in sweep.contractions if c.weight is not None and dead[sweep.resolve(c.rows)].any()}
    pairs, reasons = counterparts(before, program)
    for node, reason in reasons.items():
        if node.name in reads:
            program.skip(node, f"not refitted: {reason}")
    pairs = [pair for pair in pairs if pair.layer.node.name in reads]
    refit(before, program, context.workload, pairs, samples=samples, who=_WHO, device=context.device)


def _nothing(program: Program) -> str:
    reasons = "\n".join(f"    {skip}" for skip in program.skips[:8])
    return f"{_WHO}: no channel of this program can be removed, so that no budget can be met\n{reasons}"
