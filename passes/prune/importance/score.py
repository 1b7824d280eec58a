"""How important every atom is: a criterion scores each weight dim that has atoms, and a group's scores are reduced to one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxopt.errors import FxoptError, UnknownNameError, UsageError
from fxopt.ir.program import Program
from fxopt.passes.prune.coupling.analysis import needed
from fxopt.passes.prune.coupling.groups import Group
from fxopt.passes.prune.coupling.sweep import Sweep
from fxopt.passes.prune.importance.cells_of_atoms import Question, Scored, cells_by_atom
from fxopt.passes.prune.importance.criteria import CRITERIA, l2
from fxopt.support.import_user_code import find_function
from fxopt.workload import Workload

Reduce = Literal["mean", "sum", "max"]
Normalize = Literal["mean", "max", "none"]
Scores = NDArray[np.float64]

Name = Literal["l1", "l2", "batch_norm", "taylor", "hessian", "activation", "wanda", "fpgm", "lamp", "random"]
NAMES: tuple[str, ...] = get_args(Name)
"""The built-in criteria."""

_REDUCE = ("mean", "sum", "max")
_NORMALIZE = ("mean", "max", "none")
_WITHOUT = {
    "batch_norm": "no batch norm scales these channels",
    "activation": "no layer sums over these channels",
    "wanda": "no layer reads these channels with weights",
    "fpgm": "no layer makes these channels from weights of its own",
}


def score(
    program: Program,
    sweep: Sweep,
    groups: Sequence[Group],
    *,
    by: str,
    reduce: Reduce = "mean",
    normalize: Normalize = "mean",
    workload: Workload | None = None,
    samples: int = 64,
    seed: int = 0,
    who: str = "score",
    device: str = "cpu",
) -> Scores:
    """A score float64 ``[len(sweep.atoms)]``, at least 0, higher for more important; +inf for atoms in no group.

    Each weight dim that produces or reads the channels gives every atom one score; that of a head, which covers many
    indices, is their sum. ``reduce`` combines an atom's scores, the group importance of Fang et al. 2023 (DepGraph,
    section 3.4), and ``normalize`` divides a group's scores by their mean or largest, so that groups can be
    compared. Dead atoms, which no output depends on and shrink would remove, score 0 and do not count for that.

    ``by``, with w the elements of an atom in one weight, except biases and running statistics:

    - ``l1`` Σ|w|, ``l2`` Σw² (Li et al. 2017, section 3.1; Fang et al. 2023)
    - ``batch_norm`` |γ| (Liu et al. 2017, section 3)
    - ``taylor`` |Σ w·dL/dw| (Molchanov et al. 2019, eq. 8 without the square, which would weigh places unevenly)
    - ``hessian`` ½ Σ w²·E[(dL/dw)²] (LeCun et al. 1990, eq. 5, with the Fisher information for the diagonal)
    - ``activation`` mean |x| of what the layers read that sum over the channel (Molchanov et al. 2017, section 2.2)
    - ``wanda`` Σ w²·E[x²] over the weights that read the channel, as a share of the layer's (Sun et al. 2023, eq. 1, squared)
    - ``fpgm`` Σ of the distances to all other filters of the layer (He et al. 2019, eq. 4)
    - ``lamp`` s / Σ of all s in the group that are not smaller, with s of ``l2`` (Lee et al. 2021, eq. 3); not normalised
    - ``random`` uniform in [0, 1) by ``seed``; not normalised
    - ``module:function`` or ``file.py:function`` of your own, annotated ``-> torch.Tensor``. It is called once for every
      group with a list of float32 matrices ``[atoms, elements]``, copies, one for each weight dim, and returns the scores
      ``[atoms]``, finite and not negative.

    taylor, hessian, activation and wanda are over ``samples`` training examples of ``workload``, on ``device``. Where batch_norm,
    activation, wanda or fpgm does not apply, the group is ranked by l2 and that is reported; normalised, such scores can
    still be compared.

    Raises UnknownNameError for an unknown criterion, PassError for weights that are not finite, DataError in the name of
    ``who`` without usable data, UsageError where the user's function cannot be found, fails or gives no such scores.
    """
    own = find_function(by, f"{who}(by={by!r})", "Tensor") if ":" in by else None
    _check(by, NAMES if own is None else (by,), "importance criterion", "or give module:function of your own")
    _check(reduce, _REDUCE, "way to reduce importance")
    _check(normalize, _NORMALIZE, "way to normalize importance")
    asked = Question(program, workload, sweep, groups, samples, seed, f"{who}(by={by!r})", device)
    asked.check_finite()
    if own is not None:
        found = _own(own, asked)
    elif by == "random":
        found = (_random(group, seed) for group in groups)
    else:
        found = CRITERIA["l2" if by == "lamp" else by](asked)
    totals = _reduced(found, reduce, len(sweep.atoms))
    _fill_in(asked, totals, by, reduce)
    live = needed(sweep).live
    scores = np.full(len(totals), np.inf)
    for group in groups:
        scores[group.atoms] = _finished(totals[group.atoms], live[group.atoms], by, normalize)
    return scores


def _check(name: str, known: Sequence[str], what: str, hint: str = "") -> None:
    if name not in known:
        raise UnknownNameError(what, name, known, hint)


def _finished(totals: Scores, live: NDArray[np.bool_], by: str, normalize: Normalize) -> Scores:
    """The scores of one group: comparable with others, and 0 for dead atoms."""
    totals = np.where(live, totals, 0)
    if by == "lamp":
        return _lamp(totals)
    if by == "random" or normalize == "none" or not live.any():
        return totals
    size = totals[live].mean() if normalize == "mean" else totals[live].max()
    return totals / size if size > 0 else totals


def _reduced(found: Iterable[Scored], reduce: Reduce, n: int) -> Scores:
    """One score for every atom, NaN where it has none."""
    totals, counts = np.zeros(n), np.zeros(n)
    for atoms, values in found:  # no atom comes twice in one weight dim
        totals[atoms] = np.maximum(totals[atoms], values) if reduce == "max" else totals[atoms] + values
        counts[atoms] += 1
    if reduce == "mean":
        totals /= np.maximum(counts, 1)
    totals[counts == 0] = np.nan
    return totals


def _fill_in(asked: Question, totals: Scores, by: str, reduce: Reduce) -> None:
    """Rank groups that the criterion does not apply to by l2."""
    bare = [group for group in asked.groups if np.isnan(totals[group.atoms]).any()]
    if not bare:
        return
    if len(bare) == len(asked.groups) and by in _WITHOUT:
        hint = "; prune before fold_batch_norm" if by == "batch_norm" else ""
        raise asked.program.fail(
            _reader(bare[0]), f"{asked.who}: for all channels it holds that {_WITHOUT[by]}{hint}, or take by='l2'"
        )
    instead = _reduced(l2(asked), reduce, len(totals))
    for group in bare:
        totals[group.atoms] = np.nan_to_num(instead[group.atoms])
        reason = f"{_WITHOUT.get(by, 'it says nothing about these channels')}, so l2 ranks {group.name}"
        asked.program.skip(_reader(group), f"by={by!r}: {reason}")


def _reader(group: Group) -> fx.Node:
    """The layer that the first weight of a group belongs to, for messages."""
    weight = group.places[0].node
    return next(iter(weight.users), weight)


def _lamp(squares: Scores) -> Scores:
    """Each over the sum of all not smaller ones, itself included; of equal ones the first counts as smaller."""
    order = np.argsort(squares, kind="stable")
    rest = np.cumsum(squares[order][::-1])[::-1]
    scores = np.zeros_like(squares)
    scores[order] = np.divide(squares[order], rest, out=np.zeros_like(rest), where=rest > 0)
    return scores


def _random(group: Group, seed: int) -> Scored:
    """Random scores from a stream of the group's own, independent of other groups."""
    digest = hashlib.sha256(f"{seed} {group.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return group.atoms, torch.rand(len(group.atoms), generator=generator, dtype=torch.float64).numpy()


def _own(function: Callable[[list[torch.Tensor]], Any], asked: Question) -> Iterator[Scored]:
    """Ask the user's function about every group."""
    for group in asked.groups:
        cells = [cells_by_atom(asked.weight(p), p, group.atoms).float() for p in asked.places_of(group)]
        where = f"{asked.who}: group {group.name}, {len(group.atoms)} {group.unit}"
        try:
            values = torch.as_tensor(function(cells)).detach().double()
        except FxoptError:
            raise
        except Exception as error:
            raise UsageError(f"{where}: {type(error).__name__}: {error}") from error
        if values.shape != (len(group.atoms),):
            shape = list(values.shape)
            raise UsageError(f"{where}: expected scores [{len(group.atoms)}], one for each, got {shape}")
        if not bool((values.isfinite() & (values >= 0)).all()):
            worst = values[~(values.isfinite() & (values >= 0))][0].item()
            raise UsageError(f"{where}: scores are finite and not negative, got {worst:g}")
        yield group.atoms, values.numpy()
