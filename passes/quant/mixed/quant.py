"""The analysis behind ``fxopt explain quant MODEL``."""

from __future__ import annotations

from fxopt.passes.quant.decide import policy_of
from fxopt.passes.quant.mixed.sensitivity import SensitivityTable, alone, left_in_float
from fxopt.passes.quant.mixed.trials import Trials, observed_ranges
from fxopt.passes.quant.placement import place
from fxopt.passes.quant.quantize import PREPARATION
from fxopt.pipeline import Pipeline
from fxopt.program import Program

_WHO = "explain quant"
_IMAGES = 64
_WORST = 4


def quant(program: Program) -> SensitivityTable:
    """Show which layer hurts when quantized to int8, and what it would cost to leave it in float.

    The workload's data calibrate and judge; with a backend, the placement is the one its kernels want, and the worst
    layers are built and timed. Raises DataError for a workload without data.
    """
    ready = Pipeline.of(*PREPARATION).run(program, watchers=()).program
    policy = policy_of(ready)
    trials = Trials(ready, policy, observed_ranges(ready, policy, _IMAGES, _WHO), _WHO)
    rows = left_in_float(trials, alone(trials), _WORST)
    whole = trials.sqnr(trials.quantized(frozenset()))
    stays = tuple(f"{ready.describe(n)}: {reason}" for n, reason in place(ready, policy, ()).declined.items())
    return SensitivityTable(tuple(rows), whole, stays)
