"""Replace weights by approximations of low rank."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_doc import Doc
from annotated_types import Ge, Gt, Le, Lt

from fxopt import Context, Program, graph_pass
from fxopt.ir.cost import counted_shapes
from fxopt.passes.common.channel_multiple import multiple_for
from fxopt.passes.common.latency_budget import read_latency
from fxopt.passes.common.weight_modes import SplitWeight
from fxopt.passes.lowrank.approximate import approximate, approximate_cp
from fxopt.passes.lowrank.chain import Price
from fxopt.passes.lowrank.choose_ranks import By, RankRule
from fxopt.passes.lowrank.find_weights import find_weights, not_finite
from fxopt.passes.lowrank.rank_points import FORMS, Alternatives, Choices, Form, choices
from fxopt.passes.lowrank.whitening import Whitening, whitenings
from fxopt.passes.prune.choice.candidates import check_patterns, matches
from fxopt.support.options import Tune, With
from fxopt.support.progress import progress_bar

_WHO = "truncate_rank"


@graph_pass(kind="approx")
def truncate_rank(
    program: Program,
    context: Context,
    *,
    form: Annotated[
        Form | Literal["auto"],
        Tune(choices=("auto", "channel", "spatial")),
        Doc("How convolutions are to be split; 'auto' takes what loses least for each."),
    ] = "auto",
    rank: Annotated[int, Ge(1), Doc("The rank that every layer keeps.")] | None = None,
    ratio: Annotated[float, Gt(0), Lt(1), Doc("Share of each layer's MACs that goes.")] | None = None,
    energy: Annotated[float, Gt(0), Le(1), Doc("Share of the squared singular values that is kept.")] | None = None,
    vbmf: Annotated[bool, Doc("Find ranks by variational Bayes.")] = False,
    macs: Annotated[
        float, Gt(0), Tune(0.4, 0.95), Doc("Multiply-accumulates to be left in all, as a share up to 1 or as a number.")
    ]
    | None = None,
    params: Annotated[float, Gt(0), Doc("Parameters to be left in all, as a share up to 1 or as a number.")]
    | None = None,
    latency: Annotated[
        str | None, Doc("Latency to be left on the target: '0.5x' for half of the whole program's, or '3ms'.")
    ] = None,
    metric_drop: Annotated[float, Ge(0), Doc("How much the metric on the validation split may fall.")] | None = None,
    by: Annotated[
        By, With(macs=0.5), Doc("What counts as lost within a budget: squares of weights, or noise at the outputs.")
    ] = "weights",
    multiple: Annotated[
        int, Ge(1), Doc("Ranks are rounded up to a multiple of this; 'target' measures which one its kernels like.")
    ]
    | Literal["target"] = 1,
    data_aware: Annotated[bool, Doc("Minimise the error of what layers give, instead of that of weights.")] = False,
    samples: Annotated[int, Ge(1), With(data_aware=True), Doc("Training examples that are looked at.")] = 64,
    keep: Annotated[tuple[str, ...], Doc("Weights or modules that stay as they are, with wildcards.")] = (),
    only: Annotated[tuple[str, ...], Doc("Weights or modules that alone may change, with wildcards.")] = (),
) -> None:
    """Replace weights by low-rank approximations, so that factorize can split their layers.

    Linears, products with a stored matrix and embeddings lose singular values. ``form`` says how convolutions, transposed
    and grouped ones too, are to be split: "channel" (3x3, 1x1), "spatial" (3x1, 1x3), "tucker" (1x1, 3x3, 1x1), "train"
    (1x1, 3x1, 1x3, 1x1) or "cp" (1x1, depthwise 3x1 and 1x3, 1x1); passes/lowrank/split_weight has the papers. "auto" takes
    for each layer whichever of the first four loses least at its size, or at its latency where that is measured. A kernel
    of one pixel has one form. CP is found by alternating least squares; where that diverges, Tucker takes its place.

    How low is one of: a fixed ``rank``; a ``ratio`` of each layer's MACs that goes; the ``energy``, a share of the squared
    singular values, that is kept; ``vbmf``, by variational Bayes (Nakajima et al. 2013), which finds how much of a weight is
    no white noise, cuts deep, and needs training after it; or a budget for the whole program, where singular values go in
    the order of loss per saving. By default half of each layer goes. The CP form takes rank or ratio. The
    budgets are

    * ``macs`` or ``params``, as a share up to 1 or as a number;
    * ``latency``, ``"0.5x"`` for half of the whole program's or ``"3ms"``, as the backend builds it and the target runs it. Each
      layer is timed alone, whole and as several chains; one that no chain makes faster is left, whatever its MACs, with the
      reason;
    * ``metric_drop``, by how much the metric on the validation split may fall; as many MACs go as that allows.

    ``by`` is the loss within a budget: squares of "weights", or the measured noise that each layer alone makes at the
    "outputs", which metric_drop always takes. Ranks are rounded up to a ``multiple``; "target" measures which
    one this machine's kernels prefer.

    ``data_aware`` minimises the error of layers' outputs on ``samples`` training examples, instead of that of the weights
    (Wang et al. 2024): over all that an output reads for linears and the channel form, over input channels for the others.

    ``keep`` and ``only`` name weights or modules by pattern. A layer that would not get smaller is left, with the reason.
    A tied weight is replaced once for all that read it. Raises OptionError, BudgetError for a budget that cannot be met,
    DataError where data is needed and absent, PassError for weights that are not finite and for a quantized program, and
    UsageError where tensorly is not installed, or where latency is to be measured and cannot be.

    before:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[8,8]
        %y = aten.linear(%x, %w)
        return %y
    after:
        %x : f32[2,8]
        %w = param "fc.weight" : f32[8,8]
        %y = aten.linear(%x, %w)
        return %y

    The graph stays as it is: the weight has rank 2.
    """
    rule = RankRule(rank, ratio, energy, vbmf, macs, params, read_latency(latency, _WHO), metric_drop)
    rule.check(form, by, _WHO)
    weights = _wanted(program, keep, only)
    if multiple == "target":
        multiple = multiple_for(program, context)
    shape = counted_shapes(program)
    forms = FORMS if form == "auto" else (form,)
    white = {}
    if data_aware and weights:
        white = _whitenings(program, context, weights, forms, samples)
    with progress_bar(_WHO, len(weights)) as advance:
        every: list[Alternatives] = []
        for weight in weights:
            price, canonical = Price(weight, shape), weight.canonical()
            found: dict[Form, Choices] = {}
            reason = ""
            for one in forms if len(weight.wide) else forms[:1]:
                whitening = white.get((weight, one == "channel"))
                tensor = whitening.apply(canonical) if whitening else canonical
                if one == "cp" and weight.wide:
                    approximate_cp(program, price, tensor, whitening, rank, rule.share, multiple)
                elif isinstance(some := choices(weight, price, tensor, whitening, one, multiple), str):
                    reason = some
                else:
                    found[one] = some
            if found:
                every.append(Alternatives(found))
            elif reason:
                program.skip(weight.readers[0], reason)
            advance(1)
    for alternatives, point in zip(every, rule.chosen(program, context, every, by, _WHO), strict=True):
        if isinstance(point, str):
            program.skip(alternatives.weight.readers[0], point)
        else:
            approximate(program, alternatives.forms[point.form], point.chain)


def _whitenings(
    program: Program,
    context: Context,
    weights: list[SplitWeight],
    forms: tuple[Form, ...],
    samples: int,
) -> dict[tuple[SplitWeight, bool], Whitening | None]:
    """The whitening of each weight for the channel form (True), which is cut after the kernel, and for the others."""
    found: dict[tuple[SplitWeight, bool], Whitening | None] = {}
    for patches in sorted({form == "channel" for form in forms}):
        some = whitenings(program, context.workload, weights, patches, samples=samples, who=_WHO, device=context.device)
        found |= {(weight, patches): whitening for weight, whitening in zip(weights, some, strict=True)}
    return found


def _wanted(program: Program, keep: tuple[str, ...], only: tuple[str, ...]) -> list[SplitWeight]:
    """The weights that may be replaced."""
    weights = find_weights(program)
    check_patterns((*keep, *only), set(program.tensors()), _WHO)
    named = lambda weight, patterns: any(matches(name, p) for name in weight.names for p in patterns)  # noqa: E731
    wanted = []
    for weight in weights:
        if only and not named(weight, only):
            program.skip(weight.readers[0], f"only={only!r} does not name its weight")
        elif named(weight, keep):
            program.skip(weight.readers[0], f"kept as it is by keep={keep!r}")
        elif not bool(weight.tensor.isfinite().all()):
            raise not_finite(program, weight)
        elif not bool(weight.tensor.any()):
            program.skip(weight.readers[0], "its weight is zero")
        else:
            wanted.append(weight)
    return wanted
