"""The candidates of a block, trained in two rungs: all of them briefly, then those that no cheaper one clearly beats."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch

from fxopt.pass_manager.block_entry import Samples
from fxopt.passes.blocks.candidates import Candidate, trained
from fxopt.passes.blocks.sample_data import SampleData
from fxopt.passes.train.finetune import finetune
from fxopt.workload.batching import fixed_batch, in_batches

_BRIEF = 5
"""The first rung has one epoch in so many."""

_CLEARLY = 0.5
"""What is left of another's error where one beats it clearly: forms differ in how soon they are trained."""


def train_in_rungs(
    candidates: Sequence[Candidate],
    samples: Samples,
    how: finetune,
    device: str,
    cost: Callable[[Candidate], float],
    out: Callable[[Candidate, str], None],
) -> list[Candidate]:
    """Train the candidates of one block to match its output; those left. One that fails goes ``out`` with the reason.

    After a fifth of the epochs a candidate is dropped if another, which costs no more, has less than half of its error on
    the held-out examples (successive halving with a Pareto front in place of a rank; Jamieson & Talwalkar 2016).
    """
    left = list(candidates)
    if how.epochs >= _BRIEF and len(left) > 1:
        brief = dataclasses.replace(how, epochs=math.ceil(how.epochs / _BRIEF))
        left = _trained(left, samples, brief, device, out)
        errors = {c: _error(c, samples) for c in left}
        left = [c for c in left if not any(_beats(rival, c, errors, cost) for rival in left)]
    return _trained(left, samples, how, device, out)


def _trained(
    candidates: Sequence[Candidate], samples: Samples, how: finetune, device: str, out: Callable[[Candidate, str], None]
) -> list[Candidate]:
    left = []
    for candidate in candidates:
        reason = trained(candidate, samples, how, device)
        if reason:
            out(candidate, reason)
        else:
            left.append(candidate)
    return left


def _beats(
    rival: Candidate, other: Candidate, errors: dict[Candidate, float], cost: Callable[[Candidate], float]
) -> bool:
    return cost(rival) <= cost(other) and errors[rival] < _CLEARLY * errors[other]


def _error(candidate: Candidate, samples: Samples) -> float:
    program = candidate.program
    with torch.no_grad():
        error = SampleData(samples).error(in_batches(program.module, fixed_batch(program)))
    return math.inf if math.isnan(error) else error
