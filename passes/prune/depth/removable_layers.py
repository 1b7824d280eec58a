"""The residual branches of a program that can be made zero."""

from __future__ import annotations

from fxopt import Program
from fxopt.passes.prune.choice.candidates import check_patterns, matches
from fxopt.passes.prune.depth.branch_weights import zeroing_sites
from fxopt.passes.prune.depth.layer_importance import ScoredBranch
from fxopt.passes.prune.depth.residual import find_residuals


def removable_layers(program: Program, keep: tuple[str, ...], who: str) -> tuple[ScoredBranch, ...]:
    """The branches that may go; the others are reported with the reason. Raises OptionError for a stray name in ``keep``."""
    check_patterns(keep, program.tensors(), who)
    found = find_residuals(program)
    for node, reason in found.others:
        program.skip(node, reason)
    layers = []
    for branch in found.branches:
        sites = zeroing_sites(program, branch)
        if isinstance(sites, str):
            program.skip(branch.total, sites)
        elif not any(matches(name, pattern) for name in branch.weights for pattern in keep):
            layers.append(ScoredBranch(branch, sites))
    return tuple(layers)
