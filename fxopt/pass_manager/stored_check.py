"""The stored program of an exact pass, against its replay in float64: weights, and arithmetic, in their own precision."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.held_weight import WIDE
from fxopt.ir.op_table import family
from fxopt.ir.program import Program
from fxopt.ir.widened import Widened
from fxopt.numerics.error_metrics import is_discrete, relative_error
from fxopt.numerics.float64 import has_twin_graph, widen
from fxopt.pass_manager.invariants import same_tensor
from fxopt.pass_manager.local_proof import LocalProof, prove_locally
from fxopt.pass_manager.regions.check import Failure
from fxopt.pass_manager.regions.leaf_values import LeafValues
from fxopt.pass_manager.regions.profile import Profiler
from fxopt.pass_manager.regions.region import Region
from fxopt.pass_manager.regions.run import NewFails, OldFails, RegionRun
from fxopt.pass_manager.regions.trials import Trials
from fxopt.pass_manager.regions.work import Work
from fxopt.pass_manager.step import Step
from fxopt.pass_manager.tolerances import OWN_TOLERANCE, ROUNDING, WEIGHT_ROUNDING


def stored_as_replayed(replay: Program, program: Program) -> bool:
    """Whether a program is its replay in float64 with rounded weights."""
    if not has_twin_graph(program, replay):
        return False
    own = program.tensors()
    return all(_is_rounded(want, own[name]) for name, want in replay.tensors().items())


def _is_rounded(want: torch.Tensor, stored: torch.Tensor) -> bool:
    got = Widened(stored.detach()) if stored.dtype in WIDE else stored
    if same_tensor(want, got):
        return True
    if want.dtype != got.dtype or want.shape != got.shape:
        return False
    return stored.is_floating_point() and relative_error(want, got) <= WEIGHT_ROUNDING * torch.finfo(stored.dtype).eps


def prove_stored(wide: Program, stored: Program, draws: dict[str, str], tolerance: float) -> LocalProof:
    """Prove a program by regions with its weights as they are stored."""
    found = prove_locally(wide, stored, draws, tolerance, finite=False) or LocalProof(False)
    if found.failure is not None:
        found.failure = replace(found.failure, how=f"as stored, allowed {tolerance:.3g}")
    return found


def own_failure(
    regions: list[Region], step: Step, wide: Program, program: Program, draws: dict[str, str]
) -> Failure | None:
    """Run regions in the program's own precision; return the first whose error exceeds that of the precision."""
    trials = Trials(step.before, Profiler(step.before, program, Work(step.before)), finite=False)
    runs, exact = RegionRun(step.before, program, draws), RegionRun(wide, wide, draws)
    for region in regions:
        if any(family(node) == "quant" for node in (*region.old, *region.new)):
            continue  # any noise can become a whole step
        try:
            own = region.within(step.before, program)
        except KeyError:
            return Failure(region, math.inf, "its nodes, which are others than in the replay", "in its own precision")
        found = _own_failure(region, own, step, trials, runs, exact)
        if found is not None:
            return found
    return None


def _own_failure(
    region: Region, own: Region, step: Step, trials: Trials, runs: RegionRun, exact: RegionRun
) -> Failure | None:
    trial = trials.ordinary()
    try:
        leaves = LeafValues(step.before).of(own, trial, trials.profile(own))
        old = runs.old(own, leaves)
    except (OldFails, TypeError):
        return None
    was = old[own.was]
    if any(is_discrete(value) for value in pytree.tree_leaves(was)):
        return None
    try:
        got = runs.new(own, old)[own.goal]
    except NewFails as failed:
        return Failure(region, math.inf, f"random numbers, where it no longer runs: {failed}", "in its own precision")
    error, allowed = relative_error(was, got), max(OWN_TOLERANCE, step.pass_.tolerance)
    if not error <= allowed:
        allowed = max(allowed, ROUNDING * _cost(region, leaves, was, exact))
    if error <= allowed:
        return None
    return Failure(region, error, str(trial), f"in its own precision, allowed {allowed:.3g}")


def _cost(region: Region, leaves: dict[fx.Node, Any], was: Any, exact: RegionRun) -> float:
    """The error of the program's own precision in a region before the pass."""
    named = {node.name: widen(value) for node, value in leaves.items()}
    try:
        want = exact.old(region, {leaf: named[leaf.name] for leaf in region.leaves})[region.was]
    except OldFails:
        return 0.0
    cost = relative_error(want, was)
    return cost if math.isfinite(cost) else 0.0
