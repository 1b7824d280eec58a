"""Programs compared by their outputs and state on whole inputs, in float64, as stored, and in their own precision."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch

from fxopt.errors import VerifyError, text_of
from fxopt.ir.op_table import find_quantized
from fxopt.ir.printer import type_text
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import is_discrete, relative_error
from fxopt.numerics.execute import Run, run
from fxopt.numerics.float64 import to_float64, widen
from fxopt.numerics.probe_inputs import SCALES, edge_probes, try_probes
from fxopt.numerics.random_draws import draw_keys
from fxopt.pass_manager.interface_check import output_line
from fxopt.pass_manager.pass_base import Pass

STORED_TOLERANCE = 1e-4
"""Relative error allowed to the outputs of a program with weights rounded to their own precision."""

ROUNDING = 30
"""A model that amplifies rounding gets more room: this many times what its own precision costs it anyway."""

DISCRETE_TOLERANCE = 0.01
"""Share of the elements of an integer output that rounding may change, after a pass that was proved in float64."""

UNPROVED = (
    "proof = 'own_precision' in the recipe, or fxopt build --proof own_precision, compares in the program's own precision "
    "instead; proof = 'none' compares nothing"
)


class ProgramRuns:
    """What a program gives on probes, computed once it is asked for: in its own precision, and in float64."""

    def __init__(
        self, program: Program, probes: list[list[Any]], draws: dict[str, str], state: Collection[str], where: str
    ) -> None:
        self.program, self.probes, self.draws, self.state, self.where = program, probes, draws, state, where
        self._own: list[Run] | None = None
        self._wide: list[Run] | None = None

    @property
    def own(self) -> list[Run]:
        """Runs in the program's own precision. Raises VerifyError."""
        if self._own is None:
            self._own = self.run(self.program, self.probes, wide=False)
        return self._own

    @property
    def wide(self) -> list[Run]:
        """Runs in float64, with the weights as they are stored. Raises VerifyError."""
        if self._wide is None:
            self._wide = self.run(to_float64(self.program), self.probes, wide=True)
        return self._wide

    def run(self, program: Program, probes: list[list[Any]], *, wide: bool) -> list[Run]:
        """Run a version of the program. Raises VerifyError with the shapes of what it does not run on."""
        shapes: list[str] = []
        try:
            runs = []
            for inputs in probes:
                shapes = [type_text(v) for v in inputs]
                runs.append(run(program, inputs, wide=wide, draws=self.draws, state=self.state))
            return runs
        except Exception as error:
            raise VerifyError(
                f"the program no longer runs on inputs {shapes}\n  {_reason(error)}", step=self.where
            ) from error


def first_runs(program: Program, state: Collection[str], where: str, *, exact: bool) -> ProgramRuns:
    """The runs of a program before a pass, on probes that it takes."""
    # inputs beyond the example's range prove more, but the error of quantization is only defined inside it
    draws = draw_keys(program)
    call = lambda inputs: run(program, inputs, wide=False, draws=draws, state=state)  # noqa: E731
    tried = try_probes(program, call, SCALES if exact else (1.0,))
    if exact and _overflows(*(result for _, result in tried)):  # 0 * inf is NaN before a pass, and 0 after it
        tried = try_probes(program, call)
    runs = ProgramRuns(program, [inputs for inputs, _ in tried], draws, state, where)
    runs._own = [result for _, result in tried]
    return runs


def widened(old: ProgramRuns) -> list[Run]:
    """The runs of the program before in float64. Raises VerifyError with the way out if it has none."""
    try:
        return old.wide
    except VerifyError as error:
        raise VerifyError(
            f"nothing can be compared, the program before it does not run in float64\n  {_reason(error.__cause__ or error)}",
            step=old.where,
            way_out=UNPROVED,
        ) from error


def compare_end_to_end(pass_: Pass, replay: Program, old: ProgramRuns, new: ProgramRuns) -> float:
    """Compare a pass's replay in float64, what it stored, and its result in its own precision; return the replay's error.

    Raises VerifyError for the first output or state that differs.
    """
    wide = widened(old)
    proof = new.run(replay, old.probes, wide=True)
    exactly = [pass_.tolerance] * len(wide[0].outputs)
    error = _check_close(wide, proof, exactly, old, new, "in float64", state=pass_.tolerance)
    edges = edge_probes(old.program)
    if edges:
        error = max(error, _on_edges(edges, replay, old, new, exactly))
    room = _room(pass_, wide, old.own)
    _check_close(wide, new.wide, room, old, new, "as stored", state=STORED_TOLERANCE)
    compare_own(old, new, room)
    return error


def _on_edges(probes: list[list[Any]], replay: Program, old: ProgramRuns, new: ProgramRuns, room: list[float]) -> float:
    before = to_float64(old.program)
    worst = 0.0
    for inputs in probes:
        try:
            want = old.run(before, [inputs], wide=True)
        except VerifyError:  # sizes or values that the model does not take
            continue
        got = new.run(replay, [inputs], wide=True)
        if not _overflows(old.wide[0], *want):
            worst = max(
                worst,
                _check_close(want, got, room, old, new, "in float64", state=room[0] if room else 0.0, on="edge values"),
            )
    return worst


def compare_own(old: ProgramRuns, new: ProgramRuns, room: list[float]) -> None:
    """Compare both in their own precision, but for a quantized program, where rounding makes a step of any noise."""
    if find_quantized(new.program.graph) is None:
        # not against float64: what overflows in the program's own precision may do so before and after
        _check_close(old.own, new.own, room, old, new, "in its own precision", state=STORED_TOLERANCE)


def own_room(pass_: Pass, old: ProgramRuns) -> list[float]:
    """Room for each output where nothing is known of it in float64."""
    discrete = [is_discrete(v) for v in old.own[0].outputs]
    return [max(DISCRETE_TOLERANCE if d else STORED_TOLERANCE, pass_.tolerance) for d in discrete]


def _overflows(example: Run, *others: Run) -> bool:
    """Whether some other run has numbers that are not finite in an output that is finite on the example."""
    finite = [isinstance(o, torch.Tensor) and bool(o.isfinite().all()) for o in example.outputs]
    return any(ok and not o.isfinite().all() for r in others for ok, o in zip(finite, r.outputs, strict=True))


def _room(pass_: Pass, wide: list[Run], own: list[Run]) -> list[float]:
    """How far each output may move by rounding: seen by what its own precision costs the program before the pass."""
    room = []
    for i, output in enumerate(wide[0].outputs):
        cost = max(_rounding(w.outputs[i], o.outputs[i]) for w, o in zip(wide, own, strict=True))
        if is_discrete(output):  # each of the two that are compared may have been rounded another way, hence twice
            room.append(max(DISCRETE_TOLERANCE, pass_.tolerance, 2 * cost))
        else:
            room.append(max(STORED_TOLERANCE, pass_.tolerance, ROUNDING * cost))
    return room


def _rounding(wide: Any, own: Any) -> float:
    if isinstance(own, torch.Tensor) and isinstance(wide, torch.Tensor) and own.shape == wide.shape:
        own = torch.where(own.isfinite(), widen(own), wide)  # overflow is no rounding
    error = relative_error(wide, own)
    return error if math.isfinite(error) else 0.0


def _reason(error: BaseException) -> str:
    lines = text_of(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _check_close(
    want: list[Run], got: list[Run], room: list[float], old: ProgramRuns, new: ProgramRuns, how: str, *, state: float,
    on: str | None = None,
) -> float:  # fmt: skip
    worst = 0.0
    for probe, (w, g) in enumerate(zip(want, got, strict=True)):
        inputs = on or ("the example inputs" if probe == 0 else "random inputs")
        for i, (a, b) in enumerate(zip(w.outputs, g.outputs, strict=True)):
            like = old._wide[probe].outputs[i] if old._wide is not None and on is None else a
            error = relative_error(a, b, like=like)
            worst = max(worst, error)
            if not error <= room[i]:
                measure = "as a share of its elements" if is_discrete(a) else "relative"
                raise VerifyError(
                    f"output {i} changed by {error:.3g} {measure} {how}, allowed {room[i]:.3g}, on {inputs}",
                    step=old.where,
                    node=output_line(new.program, i),
                    way_out="an exact pass may not change the numbers; if it is meant to, declare kind='approx'",
                )
        _check_state(w, g, state, f"{how}, on {inputs}", old.where)
    return worst


def _check_state(want: Run, got: Run, room: float, how: str, where: str) -> None:
    for name, value in want.state.items():
        error = relative_error(value, got.state[name]) if name in got.state else math.inf
        if not error <= max(room, DISCRETE_TOLERANCE if is_discrete(value) and room >= STORED_TOLERANCE else 0.0):
            changed = f"changed by {error:.3g}, allowed {room:.3g}, {how}" if name in got.state else "is gone"
            raise VerifyError(
                f"{name} {changed}",
                step=where,
                way_out="an exact pass may neither drop nor change what a program writes into its inputs and buffers",
            )
