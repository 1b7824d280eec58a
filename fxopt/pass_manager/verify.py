"""Verification around every pass: the interface is kept, and the numbers are (exact) or are measured (approx).

An exact pass is replayed on a float64 copy of the program, and the outputs before and after are compared there, on
the example inputs and on random ones of other sizes. What was stored in the program's own precision is then held
against the same outputs, and the program in its own precision against the old one in the same, with the room that
rounding needs. Nothing that a run does to buffers or to the random state outlives it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.errors import VerifyError, text_of
from fxopt.ir.op_table import find_quantized
from fxopt.ir.printer import type_text
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import is_constant, is_discrete, relative_error, sqnr
from fxopt.numerics.execute import Run, run
from fxopt.numerics.float64 import coarsest, to_float64, widen
from fxopt.numerics.probe_inputs import SCALES, try_probes
from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.step import Step, StepResult, apply
from fxopt.pass_manager.value_map import first_wrong
from fxopt.support.code_stamp import code_stamp

STORED_TOLERANCE = 1e-4
"""Relative error allowed to weights rounded to their own precision, after a pass that was proved in float64."""

ROUNDING = 30
"""A model that amplifies rounding gets more room: this many times what its own precision costs it anyway."""

DISCRETE_TOLERANCE = 0.01
"""Share of the elements of an integer output that rounding may change, after a pass that was proved in float64."""


@dataclass
class _Runs:
    """What a program gave on the probes, in float64 and (once somebody asked) in its own precision."""

    program: Program
    exact: bool
    probes: list[list[Any]]
    wide: list[Run]
    own: list[Run] | None = None


class Verify:
    """Watcher that raises VerifyError for a pass that breaks the interface, the memory or the numbers."""

    def __init__(self) -> None:
        self._last: _Runs | None = None

    def cache_key(self, pass_: Pass) -> str | None:
        """What its findings depend on beside the step: its code."""
        return code_stamp(__name__)

    @contextlib.contextmanager
    def __call__(self, step: Step, program: Program, result: StepResult) -> Iterator[None]:
        """Compare the program before and after the pass."""
        last, self._last = self._last, None
        yield
        exact = step.pass_.kind != "approx"
        if last is not None and last.program is not step.before:
            last = None
        if not result.changed:
            if exact:
                result.findings.error = 0.0
            else:
                result.findings.sqnr_db = math.inf
            self._last = last and dataclasses.replace(last, program=program)
            return
        where = str(step)
        _compare_interface(_interface(step.before), _interface(program), program, where)
        wide = to_float64(step.before, to_run_passes=exact)
        same = last is not None and last.exact is exact
        old = last if last and same else _first_runs(step.before, wide, exact, where)
        replayed = wide if exact else None
        del wide  # behind an approximate pass this is the larger half of the memory
        new = _Runs(program, exact, old.probes, _try_runs(to_float64(program), old.probes, where))
        _compare_aliases(old.wide, new.wide, program, where)
        if replayed is not None:
            result.findings.error = _prove(step, replayed, old, new, where)
        else:
            after = new.wide
            if coarsest(program) > coarsest(step.before):  # what a cast to less costs, float64 would not show
                after = new.own = _try_runs(program, old.probes, where, wide=False)
            _check_finite(old.wide, after, program, where)
            pairs = zip(old.wide, after, strict=True)
            result.findings.sqnr_db = min(sqnr(before.outputs, after.outputs) for before, after in pairs)
        if is_constant([before.outputs for before in old.wide]):
            result.findings.vacuous = "the outputs do not depend on the inputs, so comparing them proves nothing"
        self._last = new


def _first_runs(program: Program, wide: Program, exact: bool, where: str) -> _Runs:
    # inputs beyond the example's range prove more, but the error of quantization is only defined inside it
    scales = SCALES if exact else (1.0,)
    try:
        tried = try_probes(program, lambda inputs: run(wide, inputs, wide=True), scales)
        if exact and _overflows(*(result for _, result in tried)):  # 0 * inf is NaN before a pass, and 0 after it
            tried = try_probes(program, lambda inputs: run(wide, inputs, wide=True))
    except Exception as error:
        raise VerifyError(
            f"nothing can be compared, the program before it does not run in float64\n  {_reason(error)}",
            step=where,
            way_out="leave verification out with Pipeline.run(…, watchers=())",
        ) from error
    return _Runs(program, exact, [inputs for inputs, _ in tried], [result for _, result in tried])


def _overflows(example: Run, *others: Run) -> bool:
    """Whether some other run has numbers that are not finite in an output that is finite on the example."""
    finite = [isinstance(o, torch.Tensor) and bool(o.isfinite().all()) for o in example.outputs]
    return any(ok and not o.isfinite().all() for r in others for ok, o in zip(finite, r.outputs, strict=True))


def _prove(step: Step, wide: Program, old: _Runs, new: _Runs, where: str) -> float:
    """Replay an exact pass on ``wide``, the old program in float64; return the largest relative error."""
    apply(step, wide)
    proof = _try_runs(wide, old.probes, where)
    _check_claims(step, wide, old.probes[-1], where)
    exactly = [step.pass_.tolerance] * len(old.wide[0].outputs)
    error = _check_close(old.wide, proof, exactly, old, new, where, "in float64")
    if old.own is None:
        old.own = [run(step.before, inputs, wide=False) for inputs in old.probes]
    room = _room(step.pass_, old.wide, old.own)
    _check_close(old.wide, new.wide, room, old, new, where, "as stored")
    if find_quantized(new.program.graph) is None:  # rounding makes a step of any noise
        new.own = _try_runs(new.program, old.probes, where, wide=False)
        # not against float64: what overflows in the program's own precision may do so before and after
        _check_close(old.own, new.own, room, old, new, where, "in its own precision")
    return error


def _check_claims(step: Step, wide: Program, inputs: list[Any], where: str) -> None:
    """Compare every value of which the pass says what is left, so that nothing behind it can hide an error."""
    if not wide.claims:
        return
    inputs = [widen(v) for v in inputs]
    found = first_wrong(to_float64(step.before), wide, inputs, step.pass_.tolerance)
    if found is not None:
        node, error = found
        raise VerifyError(
            f"a value changed by {error:.3g} relative in float64, allowed {step.pass_.tolerance:.3g}; the first one is",
            step=where,
            node=wide.describe(node),
            way_out="the pass said that it only lost indices",
        )


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


def _try_runs(program: Program, probes: list[list[Any]], where: str, *, wide: bool = True) -> list[Run]:
    shapes: list[str] = []
    try:
        runs = []
        for inputs in probes:
            shapes = [type_text(v) for v in inputs]
            runs.append(run(program, inputs, wide=wide))
        return runs
    except Exception as error:
        raise VerifyError(f"the program no longer runs on inputs {shapes}\n  {_reason(error)}", step=where) from error


def _reason(error: Exception) -> str:
    lines = text_of(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _interface(program: Program) -> tuple[list[str], list[str], Any, Any]:
    dims = program.dims()
    inputs = [f"{n.target}: {type_text(n.meta.get('val'), dims)}" for n in program.inputs()]
    values = [o.meta.get("val") if isinstance(o, fx.Node) else o for o in program.outputs()]
    return inputs, [_stable(v, dims) for v in values], program.in_spec, program.out_spec


def _stable(value: Any, dims: dict[str, str]) -> str:
    """Dtype and rank with sizes; a derived symbolic size is only 'dynamic', as it may be written in several ways."""
    if not isinstance(value, torch.Tensor):
        return type_text(value, dims)
    sizes = [str(s) if isinstance(s, int) else dims.get(str(s), "dynamic") for s in value.shape]
    return f"{value.dtype}[{', '.join(sizes)}]".replace("torch.", "")


def _compare_interface(before: Any, after: Any, program: Program, where: str) -> None:
    problems = []
    for what, old, new in (("input", before[0], after[0]), ("output", before[1], after[1])):
        if len(old) != len(new):
            problems.append(f"there were {len(old)} {what}(s), there are {len(new)}")
        for i, (a, b) in enumerate(zip(old, new, strict=False)):
            if a != b:
                shown = _line(program, i) if what == "output" else None
                line = f"\n    {shown}" if shown else ""
                problems.append(f"{what} {i}: was {a}, is {b}{line}")
    if before[2:] != after[2:]:
        problems.append("the structure of the inputs or outputs changed")
    if problems:
        text = "\n  ".join(problems)
        raise VerifyError(text, step=where, way_out="a pass may not change the inputs or outputs of the program")


def _compare_aliases(before: list[Run], after: list[Run], program: Program, where: str) -> None:
    new = sorted({a for b, c in zip(before, after, strict=True) for a in c.aliases - b.aliases})
    if new:
        raise VerifyError(
            f"{'; '.join(new)}, and did not before",
            step=where,
            way_out="a caller that writes into the result would change it; keep a copy (aten.clone) at the output",
        )


def _check_close(
    want: list[Run], got: list[Run], room: list[float], old: _Runs, new: _Runs, where: str, how: str
) -> float:
    worst = 0.0
    for probe, (like, w, g) in enumerate(zip(old.wide, want, got, strict=True)):
        for i, (scale, a, b) in enumerate(zip(like.outputs, w.outputs, g.outputs, strict=True)):
            error = relative_error(a, b, like=scale)
            worst = max(worst, error)
            if not error <= room[i]:
                inputs = "the example inputs" if probe == 0 else "random inputs"
                measure = "as a share of its elements" if is_discrete(a) else "relative"
                raise VerifyError(
                    f"output {i} changed by {error:.3g} {measure} {how}, allowed {room[i]:.3g}, on {inputs}",
                    step=where,
                    node=_line(new.program, i),
                    way_out="an exact pass may not change the numbers; if it is meant to, declare kind='approx'",
                )
    return worst


def _check_finite(before: list[Run], after: list[Run], program: Program, where: str) -> None:
    for b, a in zip(before, after, strict=True):
        for i, (want, got) in enumerate(zip(b.outputs, a.outputs, strict=True)):
            if not isinstance(want, torch.Tensor) or not isinstance(got, torch.Tensor):
                continue
            if want.shape != got.shape:
                shapes = f"was {type_text(want)}, is {type_text(got)}"
                raise VerifyError(f"output {i} changed its shape: {shapes}", step=where, node=_line(program, i))
            if bool((want.isfinite() & ~got.isfinite()).any()):
                raise VerifyError(f"output {i} is no longer finite", step=where, node=_line(program, i))


def _line(program: Program, output: int) -> str | None:
    node = program.outputs()[output]
    return program.describe(node) if isinstance(node, fx.Node) else None
