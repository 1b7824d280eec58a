"""Verification around every pass: the interface must not change, nor the outputs (exact), or their error is measured (approx).

An exact pass is replayed on a float64 copy of the program. Each region that it rewrote is then proved by itself
(:mod:`fxopt.pass_manager.local_proof`), or, where a pass relates values in another way or memory is written to, the
outputs and state before and after are compared end to end (:mod:`fxopt.pass_manager.end_to_end`). The program stored in its
own precision is compared with the replay too. Runs have no side effects on buffers or the random state.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Literal

import torch

from fxopt.errors import VerifyError
from fxopt.ir.printer import type_text
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import is_constant, sqnr
from fxopt.numerics.execute import Run
from fxopt.numerics.float64 import coarsest
from fxopt.pass_manager.end_to_end import compare_own, own_tolerances
from fxopt.pass_manager.exact_proof import prove
from fxopt.pass_manager.interface_check import compare_aliases, compare_interface, interface_of, may_share, output_line
from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.program_runs import ProgramRuns, StepRuns, widened
from fxopt.pass_manager.step import Step, StepResult
from fxopt.pass_manager.value_dependent import NOTHING_LEFT, value_dependent
from fxopt.support.code_stamp import code_stamp

Proof = Literal["float64", "own_precision", "none"]

PROOFS: dict[str, str] = {
    "float64": "numbers in float64, to 1e-9",
    "own_precision": "numbers in the program's own precision, to 1e-4: for a model that has ops without float64",
    "none": "no numbers, the interface alone",
}
"""What is compared after a pass, by the name of the proof."""


class Verify:
    """Watcher that raises VerifyError for a pass that changes the interface, shared memory or outputs.

    ``proof`` says how outputs are compared, see :data:`PROOFS`; each step's finding ``proof`` says how its own were.
    """

    def __init__(self, proof: Proof = "float64") -> None:
        self._proof = proof
        self._last: tuple[ProgramRuns, bool] | None = None

    def cache_key(self, pass_: Pass) -> str | None:
        """What its findings depend on besides the step: its code, and the proof."""
        stamp = code_stamp(__name__)
        return None if stamp is None else f"{stamp} {self._proof}"

    @contextlib.contextmanager
    def __call__(self, step: Step, program: Program, result: StepResult) -> Iterator[None]:
        """Compare the program before and after the pass."""
        last, self._last = self._last, None
        yield
        exact = step.pass_.kind != "approx"
        if last is not None and last[0].program is not step.before:
            last = None
        if not result.changed:
            if exact:
                result.findings.error = 0.0
            else:
                result.findings.sqnr_db = math.inf
            if last is not None:
                last[0].program = program
            self._last = last
            return
        where = str(step)
        compare_interface(interface_of(step.before), interface_of(program), program, where)
        if self._proof == "none":
            result.findings.proof = "none"
            return
        runs = StepRuns(step, program, last)
        if self._proof == "own_precision":
            result.findings.proof = "own precision"
            _compare_own_precision(step, *runs.both, result)
        elif exact:
            prove(step, program, runs, result.findings)
        else:
            _measure(step, *runs.both, result)
        if result.findings.proof == "local" and not may_share(step.before) and not may_share(program):
            # nothing is left to compare, but that it runs
            runs.of_example()
            return
        old, new = runs.both
        compare_aliases(old.own, new.own, program, where)
        if result.findings.proof != "local" and is_constant([before.outputs for before in old.own]):
            result.findings.vacuous = "the outputs do not depend on the inputs, so comparing them proves nothing"
        self._last = new, exact


def _compare_own_precision(step: Step, old: ProgramRuns, new: ProgramRuns, result: StepResult) -> None:
    if step.pass_.kind == "approx":
        _check_finite(old.own, new.own, new.program, old.where)
        _record_sqnr(old.own, new.own, new.program, result)
    else:
        compare_own(old, new, own_tolerances(step.pass_, old))


def _measure(step: Step, old: ProgramRuns, new: ProgramRuns, result: StepResult) -> None:
    """The error of an approximate pass, in float64; where it is measured on data, only that outputs are finite."""
    if result.on_data:
        _check_finite(old.own, new.own, new.program, old.where)
        return
    before = widened(old)
    after = new.wide
    if coarsest(new.program) > coarsest(step.before):  # float64 would not show the error of a cast to a lower precision
        after = new.own
    _check_finite(before, after, new.program, old.where)
    _record_sqnr(before, after, new.program, result)


def _record_sqnr(before: list[Run], after: list[Run], program: Program, result: StepResult) -> None:
    """The least SQNR over the outputs whose sizes do not depend on the values; that there are none, where it is so."""
    others = value_dependent(program)

    def compared(run: Run) -> list[Any]:
        return [output for i, output in enumerate(run.outputs) if i not in others]

    if others and not any(map(compared, before)):
        result.findings.vacuous = NOTHING_LEFT
        return
    result.findings.sqnr_db = min(sqnr(compared(b), compared(a)) for b, a in zip(before, after, strict=True))


def _check_finite(before: list[Run], after: list[Run], program: Program, where: str) -> None:
    others = value_dependent(program)
    for b, a in zip(before, after, strict=True):
        for i, (want, got) in enumerate(zip(b.outputs, a.outputs, strict=True)):
            if not isinstance(want, torch.Tensor) or not isinstance(got, torch.Tensor):
                continue
            if i in others:
                finite = not bool(want.isfinite().all()) or bool(got.isfinite().all())
            elif want.shape == got.shape:
                finite = not bool((want.isfinite() & ~got.isfinite()).any())
            else:
                shapes = f"was {type_text(want)}, is {type_text(got)}"
                raise VerifyError(f"output {i} changed its shape: {shapes}", step=where, node=output_line(program, i))
            if not finite:
                raise VerifyError(f"output {i} is no longer finite", step=where, node=output_line(program, i))
