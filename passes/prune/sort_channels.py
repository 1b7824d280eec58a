"""Permute channels so that the most important come first."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_doc import Doc
from annotated_types import Ge

from fxopt import Context, Program, graph_pass
from fxopt.ir.shared_copy import shared_copy
from fxopt.numerics.float64 import to_float64, widen
from fxopt.pass_manager.value_map import first_wrong
from fxopt.passes.common.data_dtypes import with_dtypes_of
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.groups import Group, find_groups
from fxopt.passes.prune.coupling.permutation import Exchange, Permutation, exchangeable, permute
from fxopt.passes.prune.importance.score import Name, Reduce, Scores, score
from fxopt.support.options import With

_WHO = "sort_channels"
_TOLERANCE = 1e-9


@graph_pass
def sort_channels(
    program: Program,
    context: Context,
    *,
    by: Annotated[Name | str, Doc("Importance by which channels are sorted: a criterion, or module:function.")] = "l2",
    reduce: Annotated[Reduce, Doc("How the scores of a group's weights become one.")] = "mean",
    samples: Annotated[int, Ge(1), With(by="taylor"), Doc("Training examples for a criterion that needs data.")] = 64,
    seed: Annotated[int, With(by="random"), Doc("Seed of a random order.")] = 0,
) -> None:
    """Permute the channels, heads and groups so that the most important of each coupling group come first.

    Coupled channels are permuted together, in all weights that produce, scale or read them; heads move as a whole. The
    function does not change: in float64 every value is compared with the original, in its new order.
    The first channels of a group are then those that a narrower layer keeps (Cai et al. 2020, Once-for-All).

    ``by`` is the importance as in zero_channels, over ``samples`` training examples where it needs data.

    Channels are only exchanged if every value treats them alike: where half of the channels are sliced off, each half is
    sorted by itself. Where a value holds a channel twice, as the halves of a gated linear unit do or a concatenation of
    tied layers, sorting is tried in float64, and undone if a value would change. Groups that stay are reported with the
    reason.

    before:
        %x : f32[2,2]
        %w = param "up.weight" : f32[3,2] = [[1, 0], [0, 3], [2, 0]]
        %v = param "down.weight" : f32[1,3] = [[1, 2, 1]]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y
    after:
        %x : f32[2,2]
        %w = param "up.weight" : f32[3,2] = [[0, 3], [2, 0], [1, 0]]
        %v = param "down.weight" : f32[1,3] = [[2, 1, 1]]
        %h = aten.linear(%x, %w)
        %y = aten.linear(%h, %v)
        return %y
    """
    sweep = couple(program)
    groups = [group for group in find_groups(sweep) if len(group.atoms) > 1]
    found = [exchange for exchange in exchangeable(sweep, groups) if _moves(program, exchange)]
    if not groups:
        program.skip(program.graph.output_node(), "no channels can change places")
    if not found:
        return
    scores = score(
        program,
        sweep,
        [exchange.group for exchange in found],
        by=by,
        reduce=reduce,
        workload=with_dtypes_of(program, context.workload),
        samples=samples,
        seed=seed,
        who=_WHO,
    )
    moved = np.arange(len(sweep.atoms))
    for exchange in found:
        if exchange.twice is None:
            _sort(moved, exchange, scores)
    for exchange in found:
        if exchange.twice is not None:
            _sort_if_exact(program, moved, exchange, scores)
    if (moved != np.arange(len(moved))).any():
        permute(Permutation(sweep, moved))


def _moves(program: Program, exchange: Exchange) -> bool:
    """Whether any atoms of a group can be permuted; if not, that is reported."""
    what = f"{len(exchange.group.atoms)} {exchange.group.unit} of {exchange.group.places[0].weight}"
    if exchange.numbered is not None:
        program.skip(exchange.numbered, f"{what} keep their order: it numbers their positions")
        return False
    if all(len(atoms) == 1 for atoms in exchange.classes):
        program.skip(_reader(exchange.group), f"{what} keep their order: each is picked by its position")
        return False
    return True


def _sort(moved: np.ndarray[Any, Any], exchange: Exchange, scores: Scores) -> None:
    for atoms in exchange.classes:
        moved[atoms] = atoms[np.argsort(-scores[atoms], kind="stable")]


def _sort_if_exact(program: Program, moved: np.ndarray[Any, Any], exchange: Exchange, scores: Scores) -> None:
    """Sort a group of which a value holds an atom twice, if no value changes; report it if one does."""
    alone = np.arange(len(moved))
    _sort(alone, exchange, scores)
    twin = shared_copy(program)
    try:
        permute(Permutation(couple(twin), alone))
    except ValueError:
        wrong = True
    else:
        inputs = [widen(value) for value in twin.example_leaves()]
        wrong = first_wrong(to_float64(program), to_float64(twin), inputs, _TOLERANCE) is not None
    if not wrong:
        _sort(moved, exchange, scores)
        return
    assert exchange.twice is not None
    group = exchange.group
    reason = (
        f"{len(group.atoms)} {group.unit} of {group.places[0].weight} keep their order: this holds each of them twice"
    )
    program.skip(exchange.twice, f"{reason}, and what reads it picks by position")


def _reader(group: Group) -> Any:
    weight = group.places[0].node
    return next(iter(weight.users), weight)
