"""What is decided before anything is written: the policy, the placement, and the code of every value."""

from __future__ import annotations

from torch import fx

from fxopt.passes.quant.calibrate import calibrate
from fxopt.passes.quant.observers import FORMATS, Affine, Calibration
from fxopt.passes.quant.placement import Placement, place
from fxopt.program import Program
from fxopt.qdq import Policy
from fxopt.target import host


def policy_of(program: Program) -> Policy:
    """The policy of the backend for the target that the pipeline is run for; the default one without a backend."""
    context = program.context
    return context.backend.quant_policy(context.target or host()) if context.backend else Policy()


def decide(
    program: Program, policy: Policy, *, images: int, calibration: Calibration, keep_float: tuple[str, ...], who: str
) -> tuple[Placement, dict[fx.Node, Affine]]:
    """The placement, and the calibrated code of every value in it; reports what stays in float.

    The program has a workload. Nothing is calibrated where no layer is placed. Raises DataError in the name of ``who``
    without usable data.
    """
    placement = place(program, policy, keep_float)
    for node, reason in placement.declined.items():
        program.skip(node, reason)
    if not placement.layers:
        return placement, {}
    assert program.context.workload is not None
    owners = dict.fromkeys(placement.values.values())
    batches = program.context.workload.calibration(images, who)
    observers = calibrate(program, batches, owners, calibration=calibration, images=images)
    return placement, {
        node: observers[owner].affine(FORMATS[policy.activations]) for node, owner in placement.values.items()
    }
