"""The proof of an exact pass: replayed in float64 and proved region by region, or compared end to end."""

from __future__ import annotations

from fxopt.errors import VerifyError
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.numerics.float64 import float64_default, to_float64, widen
from fxopt.numerics.random_draws import draw_keys
from fxopt.pass_manager.end_to_end import compare_end_to_end
from fxopt.pass_manager.local_proof import LocalProof, prove_locally
from fxopt.pass_manager.program_runs import ProgramRuns, StepRuns
from fxopt.pass_manager.regions.check import Failure
from fxopt.pass_manager.shared_weights import STORE
from fxopt.pass_manager.step import Findings, Step, apply
from fxopt.pass_manager.stored_check import own_failure, prove_stored, stored_as_replayed
from fxopt.pass_manager.tolerances import STORED_TOLERANCE, weight_tolerance
from fxopt.pass_manager.value_map import first_wrong

_SHOWN = 5
"""Calls of each side of a region in an error."""


def prove(step: Step, program: Program, runs: StepRuns, findings: Findings) -> None:
    """Prove that a step, which made ``program``, did not change the outputs, and record how. Raises VerifyError if it did."""
    wide = to_float64(step.before, to_run_passes=True)
    replay = shared_copy(wide)
    versions = _versions(wide)
    with float64_default():
        apply(step, replay)
    if _versions(wide) != versions:
        raise VerifyError("the pass changed weights of the program in float64 in place", step=str(step), way_out=STORE)
    findings.tolerance = step.pass_.tolerance
    if stored_as_replayed(replay, program):
        findings.stored, findings.stored_tolerance = "weights", weight_tolerance(program)
    else:
        findings.stored, findings.stored_tolerance = "values", max(STORED_TOLERANCE, findings.tolerance)
    failure: Failure | None = None
    if not replay.claims:
        proof = _by_regions(step, wide, replay, program, findings)
        if proof is not None and proof.proved:
            findings.proof, findings.regions, findings.error = "local", len(proof.regions), proof.error
            return
        failure = proof.failure if proof is not None else None
    findings.proof = "end to end"
    old, new = runs.both
    _check_claims(step, replay, old)
    findings.error = compare_end_to_end(step.pass_, replay, old, new, as_replayed=findings.stored == "weights")
    if failure is not None:
        raise _error(step, program, failure)


def _versions(program: Program) -> list[int]:
    return [tensor._version for tensor in program.tensors().values()]


def _by_regions(step: Step, wide: Program, replay: Program, program: Program, findings: Findings) -> LocalProof | None:
    draws = draw_keys(replay, step.before) | draw_keys(step.before)
    proof = prove_locally(wide, replay, draws, step.pass_.tolerance, finite=not step.pass_.assumes_finite)
    if proof is not None and proof.proved and findings.stored == "values":
        error = proof.error
        proof = prove_stored(wide, to_float64(program), draws, max(STORED_TOLERANCE, step.pass_.tolerance))
        proof.error = error
    if proof is not None and proof.proved and (failure := own_failure(proof.regions, step, wide, program, draws)):
        return LocalProof(False, failure=failure)
    return proof


def _error(step: Step, program: Program, failure: Failure) -> VerifyError:
    """The error of a region, although no probe input showed it."""
    named = {node.name: node for node in program.graph.nodes}
    region = failure.region
    shown = [program.describe(named[n.name]) for n in region.new if n.name in named and n.op == "call_function"]
    before = [step.before.describe(n) for n in region.old if n.op == "call_function"]
    return VerifyError(
        f"a rewritten region changed by {failure.error:.3g} relative {failure.how}, on {failure.on}",
        step=str(step),
        node="\n    ".join(shown[-_SHOWN:]) or program.describe(named[region.goal.name]),
        expected="\n             ".join(before[-_SHOWN:]) or None,
        way_out="an exact pass may not change the numbers; if it is meant to, declare kind='approx', and if it holds for "
        "finite numbers only, assumes_finite=True",
    )


def _check_claims(step: Step, replay: Program, old: ProgramRuns) -> None:
    """Compare every value of the pass's value map, so that nothing downstream can hide an error."""
    if not replay.claims:
        return
    inputs = [widen(v) for v in old.probes[-1]]
    with float64_default():
        found = first_wrong(to_float64(step.before), replay, inputs, step.pass_.tolerance)
    if found is not None:
        node, error = found
        raise VerifyError(
            f"a value changed by {error:.3g} relative in float64, allowed {step.pass_.tolerance:.3g}; the first one is",
            step=old.where,
            node=replay.describe(node),
            way_out="the pass said that it only lost indices",
        )
