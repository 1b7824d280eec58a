"""The contract of passes."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.automl.read_space import pass_space
from fxopt.automl.space import check_points
from fxopt.errors import DataError, FxoptError, UsageError
from fxopt.ir.parser import canonical_text, parse_program
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import relative_error
from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.pass_manager.tolerances import OWN_TOLERANCE
from fxopt.testing.contract import (
    Check,
    ContractError,
    check_docstring,
    check_name,
    check_round_trip,
    check_value,
    check_wrong_options,
    require,
)
from fxopt.testing.examples import find_example
from fxopt.testing.option_checks import option_checks
from fxopt.testing.pass_runs import check_interface, run_pass
from fxopt.testing.small_models import SmallModel, small_models
from fxopt.testing.small_workload import other_batch


def pass_checks(cls: type[Pass], models: Iterable[SmallModel] | None = None) -> list[Check]:
    """List the checks of a pass: its form, the example in its docstring, each small model, and each of its options."""
    models = None if models is None else list(models)
    form: list[tuple[str, Any]] = [
        ("name is snake_case and its own", check_name),
        ("docstring begins with a sentence", check_docstring),
        ("kind and tolerance are valid", _check_kind),
        ("is a frozen, hashable value", check_value),
        ("text form round-trips", lambda c: check_round_trip(c, _parse_one)),
        ("wrong options are refused", lambda c: check_wrong_options(c, _parse_one)),
        ("docstring's before becomes its after", _check_example),
    ]
    if cls.stage is not None:
        form.append(("a search can make every point of it", _check_searched))
    checks = [Check(name, functools.partial(check, cls)) for name, check in form]
    for model in small_models() if models is None else models:
        checks.append(Check(f"keeps the contract on {model.name}", functools.partial(_check_on, cls, model)))
    return checks + option_checks(cls, models)


def _check_searched(cls: type[Pass]) -> str:
    """Check each choice, and each end of an interval, that a search would try."""
    try:
        space = pass_space(cls, {})
        return f"{check_points(space)} points"
    except UsageError as error:
        raise ContractError(f"a search would make a value that the pass refuses; narrow its Tune: {error}") from None


def _parse_one(text: str) -> Pass:
    (made,) = Pipeline.parse(text).passes
    return made


def _check_kind(cls: type[Pass]) -> None:
    require(cls.kind in ("exact", "approx"), f"kind must be 'exact' or 'approx', got {cls.kind!r}")
    require(0 <= cls.tolerance < 1, f"tolerance is a relative error from 0 to below 1, got {cls.tolerance!r}")
    loose = cls.kind == "exact" and cls.tolerance > 1e-9
    require(
        not loose or "toleran" in (inspect.getdoc(cls) or ""),
        f"tolerance is {cls.tolerance:g} where exact passes have 1e-9; say in the docstring why this tolerance is right",
    )


def _check_example(cls: type[Pass]) -> str:
    example = find_example(cls)
    if example is None:
        raise ContractError(
            "the docstring needs an example: a `before:` and an `after:` block of the text form, indented:\n"
            "    before:\n        %x : f32[2,4]\n        %y = aten.relu(%x)\n        return %y\n    after:\n        …"
        )
    before, after = parse_program(example.before), parse_program(example.after)
    outcome = run_pass(cls(), before, behind=example.behind)
    got, want = canonical_text(outcome.program), canonical_text(after)
    if cls.kind == "approx":  # what it computes depends on data, so only the structure is compared
        got, want = _without_numbers(got), _without_numbers(want)
    if got != want:
        skips = "".join(f"\n  skipped {skip}" for step in outcome.steps for skip in step.skips)
        raise ContractError(
            f"the pass does not turn `before:` into `after:`\n  expected (names in order)\n{_indent(want)}\n"
            f"  got\n{_indent(got)}{skips}\n  correct the docstring or the pass"
        )
    own = outcome.steps[-len(cls().steps()) :]
    require(any(step.changed for step in own), "the example shows no change; show one that the pass makes")
    return "executed and verified"


def _without_numbers(text: str) -> str:
    lines = (re.fullmatch(r"(.*?\()(.*)(\).*)", line) for line in text.splitlines())
    numbers = re.compile(r"(?<![\w%.])-?\d[\w.+-]*")
    pairs = zip(lines, text.splitlines(), strict=True)
    return "\n".join(m[1] + numbers.sub("#", m[2]) + m[3] if m else line for m, line in pairs)


def _check_on(cls: type[Pass], model: SmallModel) -> str:
    made = cls()
    program = model.program()
    before = program.fingerprint()
    try:
        outcome = run_pass(made, program)
    except DataError as error:
        return f"declined: {error}"
    _check_input_kept(program, before)
    check_interface(program, outcome.program)
    require(
        run_pass(made, model.program(), watchers=()).program.fingerprint() == outcome.program.fingerprint(),
        "two runs on the same program gave different results; draw random numbers from a fixed seed, sort sets",
    )
    changed = any(step.changed for step in outcome.steps)
    if all(step.kind == "exact" for step in outcome.steps):
        _check_like_module(model, outcome.program)
        _run_again(made, outcome.program)
    reasons = sum(len(step.skips) for step in outcome.steps)
    return ("changed" if changed else "unchanged") + (f", {reasons} skipped with a reason" if reasons else "")


def _check_input_kept(program: Program, before: str) -> None:
    require(
        program.fingerprint() == before,
        "the program that went in was changed, by way of a tensor or node that its copy shares; never edit a weight in "
        "place: program.swap_tensor, or program.add_tensor and a new get_attr node",
    )


def _check_like_module(model: SmallModel, after: Program) -> None:
    """Compare with torch's own module, at a batch that neither the capture nor the verification used."""
    module = model.module()
    for size in (1, 5):
        args, kwargs = other_batch(after, size)
        with torch.no_grad():
            want = pytree.tree_leaves(module(*args, **kwargs))
        try:
            got = pytree.tree_leaves(after(*args, **kwargs))
        except Exception as error:
            raise ContractError(f"the rewritten program fails with a batch of {size}: {error}") from error
        for i, (a, b) in enumerate(zip(want, got, strict=True)):
            distance = relative_error(a, b)
            require(
                distance <= OWN_TOLERANCE,
                f"output {i} differs from the module's by {distance:.3g} relative with a batch of {size}, "
                f"allowed {OWN_TOLERANCE:g}",
            )


def _run_again(made: Pass, program: Program) -> None:
    try:
        run_pass(made, program)
    except FxoptError as error:
        raise ContractError(f"a second run on its own result fails: {error}") from error


def _indent(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())
