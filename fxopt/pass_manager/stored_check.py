"""What an exact pass stored, against its replay in float64: weights rounded to their own precision, and sums in it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from fxopt.ir.op_table import family
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import relative_error
from fxopt.numerics.float64 import to_float64, widen
from fxopt.pass_manager.local_proof import Failure, LocalProof, prove_locally
from fxopt.pass_manager.region import Region
from fxopt.pass_manager.region_run import NewFails, OldFails, RegionRun, is_step
from fxopt.pass_manager.region_trials import Trials
from fxopt.pass_manager.region_work import Work
from fxopt.pass_manager.step import Step

WEIGHT_ROUNDING = 32
"""Units in the last place that a stored weight may be off from what the replay in float64 computed."""

REGION_TOLERANCE = 1e-5
"""Relative error allowed to a region whose weights are farther off, as they are not unique or badly conditioned."""

OWN_TOLERANCE = 1e-4
"""Relative error allowed to a region in the program's own precision, or 30 times what that costs it before the pass."""

_COST = 30


def check_stored(
    local: LocalProof, step: Step, wide: Program, replay: Program, program: Program, draws: dict[str, str]
) -> LocalProof:
    """Hold the program as stored against the proof of its replay; return the proof, or what it fails at."""
    stored = to_float64(program)
    tolerance = max(REGION_TOLERANCE, step.pass_.tolerance)
    if not _rounded(replay, stored, program):
        found = prove_locally(wide, stored, draws, tolerance, finite=False)
        if found is None or not found.proved:
            failure = found.failure if found else None
            told = replace(failure, how=f"as stored, allowed {tolerance:.3g}") if failure else None
            return LocalProof(False, failure=told)
        local = LocalProof(True, found.regions, local.error)
    trials = Trials(step.before, Work(step.before), finite=False)
    for region in local.regions:
        failure = _own_failure(region, step, wide, program, trials, draws)
        if failure is not None:
            return LocalProof(False, failure=failure)
    return local


def _rounded(replay: Program, stored: Program, program: Program) -> bool:
    """Whether the stored program is the replay, with weights rounded to their dtypes."""
    if str(replay.graph) != str(stored.graph):
        return False
    own, kept = program.tensors(), stored.tensors()
    for name, want in replay.tensors().items():
        got = kept[name]
        if want.dtype != got.dtype or want.shape != got.shape:
            return False
        if want is got or torch.equal(want, got):
            continue
        if not own[name].is_floating_point():
            return False
        if relative_error(want, got) > WEIGHT_ROUNDING * torch.finfo(own[name].dtype).eps:
            return False
    return True


def _own_failure(
    region: Region, step: Step, wide: Program, program: Program, trials: Trials, draws: dict[str, str]
) -> Failure | None:
    """Run a region in the program's own precision, where it holds nothing that makes a step of rounding."""
    if any(family(node) == "quant" for node in (*region.old, *region.new)):
        return None
    try:
        own = region.within(step.before, program)
    except KeyError:
        return Failure(region, math.inf, "its nodes, which are others than in the replay", "in its own precision")
    runs = RegionRun(step.before, program, draws)
    exact = RegionRun(wide, wide, draws)
    for trial in trials.ordinary(own):
        try:
            leaves = trials.leaves(own, trial)
            old = runs.old(own, leaves)
            names = {node.name: value for node, value in leaves.items()}
            want = exact.old(region, {leaf: widen(names[leaf.name]) for leaf in region.leaves})[region.was]
        except (OldFails, TypeError):
            continue
        was = old[own.was]
        if is_step(was):
            continue
        try:
            got = runs.new(own, old)[own.goal]
        except NewFails as failed:
            return Failure(
                region, math.inf, f"random numbers, where it no longer runs: {failed}", "in its own precision"
            )
        cost = relative_error(want, was)
        room = max(OWN_TOLERANCE, step.pass_.tolerance, _COST * cost if math.isfinite(cost) else 0.0)
        error = relative_error(was, got)
        if not error <= room:
            return Failure(region, error, str(trial), f"in its own precision, allowed {room:.3g}")
    return None
