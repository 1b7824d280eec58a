"""Programs compared by their outputs and state on whole inputs, in float64, as stored, and in their own precision."""

from __future__ import annotations

import math
from typing import Any

import torch

from fxopt.errors import VerifyError
from fxopt.ir.op_table import find_quantized
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import is_discrete, relative_error
from fxopt.numerics.execute import Run
from fxopt.numerics.float64 import to_float64, widen
from fxopt.numerics.probe_inputs import edge_probes
from fxopt.pass_manager.interface_check import output_line
from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.program_runs import ProgramRuns, overflows, widened
from fxopt.pass_manager.tolerances import DISCRETE_TOLERANCE, OWN_TOLERANCE, ROUNDING, STORED_TOLERANCE


def compare_end_to_end(pass_: Pass, replay: Program, old: ProgramRuns, new: ProgramRuns, *, as_replayed: bool) -> float:
    """Compare a pass's replay in float64, what it stored, and its result in its own precision; return the replay's error.

    The stored program is compared unless it is known to be the replay with rounded weights, ``as_replayed``. Raises
    VerifyError for the first output or state that differs.
    """
    wide = widened(old)
    proof = new.run(replay, old.probes, wide=True)
    exactly = [pass_.tolerance] * len(wide[0].outputs)
    error = _check_close(wide, proof, exactly, old, new, "in float64", state=pass_.tolerance)
    edges = edge_probes(old.program)
    if edges:
        error = max(error, _on_edges(edges, replay, old, new, exactly))
    if not as_replayed:
        stored = _tolerances(pass_, wide, old.own, STORED_TOLERANCE)
        _check_close(wide, new.wide, stored, old, new, "as stored", state=STORED_TOLERANCE)
    compare_own(old, new, _tolerances(pass_, wide, old.own, OWN_TOLERANCE))
    return error


def _on_edges(
    probes: list[list[Any]], replay: Program, old: ProgramRuns, new: ProgramRuns, allowed: list[float]
) -> float:
    before = to_float64(old.program)
    worst = 0.0
    for inputs in probes:
        try:
            want = old.run(before, [inputs], wide=True)
        except VerifyError:  # sizes or values that the model does not take
            continue
        got = new.run(replay, [inputs], wide=True)
        if not overflows(old.wide[0], *want):
            worst = max(
                worst,
                _check_close(
                    want, got, allowed, old, new, "in float64", state=allowed[0] if allowed else 0.0, on="edge values"
                ),
            )
    return worst


def compare_own(old: ProgramRuns, new: ProgramRuns, allowed: list[float]) -> None:
    """Compare both in their own precision, except for a quantized program, in which any noise can become a whole step."""
    if find_quantized(new.program.graph) is None:
        # not with float64: a value that overflows in the program's own precision may do so before and after
        _check_close(old.own, new.own, allowed, old, new, "in its own precision", state=OWN_TOLERANCE)


def own_tolerances(pass_: Pass, old: ProgramRuns) -> list[float]:
    """Tolerance for each output where there is no run in float64."""
    discrete = [is_discrete(v) for v in old.own[0].outputs]
    return [max(DISCRETE_TOLERANCE if d else OWN_TOLERANCE, pass_.tolerance) for d in discrete]


def _tolerances(pass_: Pass, wide: list[Run], own: list[Run], least: float) -> list[float]:
    """Tolerance for rounding of each output: from the error of the program's own precision before the pass."""
    allowed = []
    for i, output in enumerate(wide[0].outputs):
        cost = max(_rounding(w.outputs[i], o.outputs[i]) for w, o in zip(wide, own, strict=True))
        if is_discrete(output):  # twice, as both of those compared may have been rounded differently
            allowed.append(max(DISCRETE_TOLERANCE, pass_.tolerance, 2 * cost))
        else:
            allowed.append(max(least, pass_.tolerance, ROUNDING * cost))
    return allowed


def _rounding(wide: Any, own: Any) -> float:
    if isinstance(own, torch.Tensor) and isinstance(wide, torch.Tensor) and own.shape == wide.shape:
        own = torch.where(own.isfinite(), widen(own), wide)  # overflow does not count as rounding
    error = relative_error(wide, own)
    return error if math.isfinite(error) else 0.0


def _check_close(
    want: list[Run], got: list[Run], allowed: list[float], old: ProgramRuns, new: ProgramRuns, how: str, *, state: float,
    on: str | None = None,
) -> float:  # fmt: skip
    worst = 0.0
    for probe, (w, g) in enumerate(zip(want, got, strict=True)):
        inputs = on or ("the example inputs" if probe == 0 else "random inputs")
        for i, (a, b) in enumerate(zip(w.outputs, g.outputs, strict=True)):
            like = old._wide[probe].outputs[i] if old._wide is not None and on is None else a
            error = relative_error(a, b, like=like)
            worst = max(worst, error)
            if not error <= allowed[i]:
                measure = "as a share of its elements" if is_discrete(a) else "relative"
                raise VerifyError(
                    f"output {i} changed by {error:.3g} {measure} {how}, allowed {allowed[i]:.3g}, on {inputs}",
                    step=old.where,
                    node=output_line(new.program, i),
                    way_out="an exact pass may not change the numbers; if it is meant to, declare kind='approx'",
                )
        _check_state(w, g, state, f"{how}, on {inputs}", old.where)
    return worst


def _check_state(want: Run, got: Run, allowed: float, how: str, where: str) -> None:
    for name, value in want.state.items():
        error = relative_error(value, got.state[name]) if name in got.state else math.inf
        if not error <= max(allowed, DISCRETE_TOLERANCE if is_discrete(value) and allowed >= STORED_TOLERANCE else 0.0):
            changed = f"changed by {error:.3g}, allowed {allowed:.3g}, {how}" if name in got.state else "is gone"
            raise VerifyError(
                f"{name} {changed}",
                step=where,
                way_out="an exact pass may neither drop nor change what a program writes into its inputs and buffers",
            )
