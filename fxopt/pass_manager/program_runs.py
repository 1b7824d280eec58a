"""Runs of a program on probe inputs, to compare before and after a pass: in its own precision, and in float64."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import torch

from fxopt.errors import VerifyError, text_of
from fxopt.ir.printer import type_text
from fxopt.ir.program import Program
from fxopt.numerics.execute import Run, run, state_names
from fxopt.numerics.float64 import to_float64
from fxopt.numerics.probe_inputs import SCALES, try_probes
from fxopt.numerics.random_draws import draw_keys
from fxopt.pass_manager.step import Step

UNPROVED = (
    "proof = 'own_precision' in the recipe, or fxopt build --proof own_precision, compares in the program's own precision "
    "instead; proof = 'none' compares nothing"
)


class ProgramRuns:
    """Outputs of a program on probes, computed on first use: in its own precision, and in float64."""

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
        """Run a version of the program. Raises VerifyError with the shapes of inputs that it does not run on."""
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


class StepRuns:
    """The runs before and after a step, made when they are asked for; those before are ``last`` where these fit."""

    def __init__(self, step: Step, program: Program, last: tuple[ProgramRuns, bool] | None) -> None:
        self._step, self._program, self._last = step, program, last
        self._state = state_names(step.before) | state_names(program)

    @functools.cached_property
    def both(self) -> tuple[ProgramRuns, ProgramRuns]:
        """Before and after, on the same probes. Raises VerifyError."""
        step, exact, last = self._step, self._step.pass_.kind != "approx", self._last
        same = last is not None and last[1] is exact and last[0].state == self._state
        old = last[0] if last and same else first_runs(step.before, self._state, str(step), exact=exact)
        old.where = str(step)
        return old, self._after(old.probes)

    def of_example(self) -> None:
        """Run the program after on the example inputs. Raises VerifyError."""
        _ = self._after([self._program.example_leaves()]).own

    def _after(self, probes: list[list[Any]]) -> ProgramRuns:
        draws = draw_keys(self._program, self._step.before)
        return ProgramRuns(self._program, probes, draws, self._state, str(self._step))


def first_runs(program: Program, state: Collection[str], where: str, *, exact: bool) -> ProgramRuns:
    """The runs of a program before a pass, on probes that it takes."""
    # inputs beyond the example's range prove more, but the error of quantization is only meaningful inside it
    draws = draw_keys(program)
    call = lambda inputs: run(program, inputs, wide=False, draws=draws, state=state)  # noqa: E731
    tried = try_probes(program, call, SCALES if exact else (1.0,))
    if exact and overflows(*(result for _, result in tried)):  # 0 * inf is NaN before a pass, and 0 after it
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


def overflows(example: Run, *others: Run) -> bool:
    """Whether an output that is finite on the example is not finite in some other run."""
    finite = [isinstance(o, torch.Tensor) and bool(o.isfinite().all()) for o in example.outputs]
    return any(ok and not o.isfinite().all() for r in others for ok, o in zip(finite, r.outputs, strict=True))


def _reason(error: BaseException) -> str:
    lines = text_of(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
