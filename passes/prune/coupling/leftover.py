"""What is read as zero and cannot be removed all the same, and why."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from torch import fx

from fxopt import Program
from fxopt.passes.prune.coupling.liveness import Liveness
from fxopt.passes.prune.coupling.sweep import Reason, Sweep


def report_leftover(program: Program, sweep: Sweep, liveness: Liveness) -> None:
    """Report the channels that a layer reads as zero, or makes as zero, and that stay."""
    for contraction, nonzero in zip(sweep.contractions, liveness.nonzero, strict=True):
        if nonzero is None or program.tensor(contraction.weight) is None:
            continue
        index = sweep.resolve(contraction.rows)
        stays = np.asarray(liveness.live[index].all(1))
        readers = np.ones(nonzero.blocks * nonzero.rows, np.bool_)
        if contraction.weight_rows is not None:  # of what goes nothing is said, nor is it counted as a reader
            rows = sweep.resolve(contraction.weight_rows)
            readers = np.asarray(liveness.live[rows].all(1))
            fed = nonzero.reading(stays, readers)
            _report(program, sweep, liveness, rows[readers & ~fed], contraction.node, "whose weights are zero")
        unread = stays & ~nonzero.read(readers, stays)
        _report(program, sweep, liveness, index[unread], contraction.node, "that are read as zero")


def _report(program: Program, sweep: Sweep, liveness: Liveness, staying: np.ndarray, node: object, which: str) -> None:
    if not len(staying):
        return
    causes = Counter(int(liveness.cause[row[row != 0]].max(initial=0)) or _reader(liveness, row) for row in staying)
    for cause, count in causes.items():
        reason = why(sweep, cause)
        at = f" (at {reason.node.name})" if reason.node is not node else ""
        program.skip(node, f"{count} channels {which} stay: {reason.text}{at}")  # type: ignore[arg-type]


def _reader(liveness: Liveness, row: np.ndarray) -> int:
    return int(liveness.cause[row].min(initial=0))


def why(sweep: Sweep, cause: int) -> Reason:
    """A cause of liveness as a sentence about a node."""
    if cause > 0:
        return sweep.reasons[cause - 1]
    if cause < 0:
        contraction = sweep.contractions[-1 - cause]
        what = (
            "its weights for them are not zero"
            if contraction.weight is not None
            else "it sums over them, and they are not known to be zero"
        )
        return Reason(contraction.node, what)
    first = next(iter(sweep.axes))
    return Reason(first, "one index of every dim is kept")


def report_pinned(program: Program, sweep: Sweep) -> None:
    """Report the channels that layers make and that can never go, whatever the weights are, and layers that are not seen."""
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator) and node.target.name() != "wrap_with_autocast":
            program.skip(
                node, f"layers inside of torch.{node.target.name()} stay: prune what it calls before, as models"
            )
    pinned = sweep.pinned
    said: set[tuple[fx.Node, str]] = set()  # a recurrent layer sums in several places
    for contraction in sweep.contractions:
        if contraction.weight_rows is None:
            continue
        rows = sweep.resolve(contraction.weight_rows)
        free = ((rows != 0) & (pinned[rows] == 0)).any(1)
        causes = Counter(int(c) for c in pinned[rows[~free]].max(1))
        for cause, count in causes.items():
            if cause:
                reason = sweep.reasons[cause - 1]
                text = f"{count} of {len(rows)} channels stay: {reason.text} (at {reason.node.name})"
                if (contraction.node, text) not in said:
                    program.skip(contraction.node, text)
                said.add((contraction.node, text))
