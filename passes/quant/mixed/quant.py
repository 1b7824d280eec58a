"""The analysis behind ``fxopt explain quant MODEL``."""

from __future__ import annotations

from fxopt.errors import DataError
from fxopt.ir.program import Program
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.passes.quant.decide import Placer, calibrated, expose_products, policy_of
from fxopt.passes.quant.mixed.sensitivity import SensitivityTable, alone, left_in_float
from fxopt.passes.quant.mixed.trials import Trials
from fxopt.passes.quant.quantize import PREPARATION
from fxopt.passes.quant.refine.analytic_bias import MeanInputs

_WHO = "explain quant"
_IMAGES = 64
_WORST = 4


def quant(program: Program, context: Context) -> SensitivityTable:
    """Show which layers lose most in int8, and what it would cost to leave them in float.

    The workload's data calibrate and evaluate; with a backend, the placement is that of its policy, and the worst
    layers are built and timed. Raises DataError for a workload without data.
    """
    if context.workload is None:
        raise DataError(f"{_WHO} needs data: give it a workload")
    ready = Pipeline.of(*PREPARATION).run(program, watchers=()).program
    placer = Placer(policy_of(context))
    expose_products(ready, placer)
    placement = placer(ready)
    means = MeanInputs(ready, placement.layers)
    codes = calibrated(
        ready,
        context.workload,
        placement,
        placer.policy,
        images=_IMAGES,
        who=_WHO,
        also=means.watching(),
        device=context.device,
    )
    trials = Trials(ready, context, placer, {node.name: code for node, code in codes.items()}, _WHO, means)
    rows = left_in_float(trials, alone(trials), _WORST)
    whole = trials.sqnr(trials.quantized(frozenset()))
    stays = tuple(f"{ready.describe(n)}: {reason}" for n, reason in placement.declined.items())
    return SensitivityTable(tuple(rows), whole, stays)
