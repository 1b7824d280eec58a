"""The analysis behind ``fxopt explain quant MODEL``."""

from __future__ import annotations

from fxopt.backend import find_backend
from fxopt.driver.debug import debug_before_build
from fxopt.driver.debugged import Debugged
from fxopt.driver.plan import Plan
from fxopt.driver.recipe import Recipe
from fxopt.errors import DataError
from fxopt.ir.program import Program
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.passes.quant.quantize import quantize
from fxopt.target import host


def quant(program: Program, context: Context) -> Debugged:
    """Show which layers lose most in int8, and what it would cost to leave them in float.

    The model is quantized and built for the backend, and what `fxopt debug` says of a build is said of that artifact, without
    keeping it; of the quantized program in torch where the artifact cannot be built or run on this machine. The workload's
    data calibrate and evaluate. Raises DataError for a workload without data.
    """
    if context.workload is None or context.workload.data is None:
        raise DataError("explain quant needs data: give it a workload that has some")
    backend, target = context.backend or find_backend("eager"), context.target or host()
    pipeline = Pipeline.of(quantize())
    plan = Plan(
        Recipe(context.workload.name, (str(pipeline),), str(backend), target.name),
        workload=context.workload,
        pipeline=pipeline,
        backend=backend,
        candidates=(backend,),
        target=target,
        calibration=None,
        device=context.device,
    )
    return debug_before_build(program, plan)
