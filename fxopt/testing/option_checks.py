"""Every value of every option of a pass, run end to end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

from fxopt.errors import FxoptError, PassCrashError, VerifyError, text_of
from fxopt.ir.parser import parse_program
from fxopt.ir.program import Program
from fxopt.pass_manager.pass_base import Pass
from fxopt.support.options import With, type_hints
from fxopt.support.spec import format_call
from fxopt.testing.contract import Check, require
from fxopt.testing.examples import find_example
from fxopt.testing.option_values import option_values
from fxopt.testing.pass_runs import check_interface, run_pass
from fxopt.testing.small_models import BROAD_MODEL, SmallModel


def option_checks(cls: type[Pass], models: Sequence[SmallModel] | None = None) -> list[Check]:
    """List a check for each option: every value that its type names is run, or refused with an error for users.

    A value is run with the other options at their defaults, and with those of its annotation
    :class:`~fxopt.support.options.With`: through a verified pipeline, on the example of the docstring and on ``models``, by
    default one that most options apply to. An option whose type names no value besides the default has no check.
    """
    chosen = [BROAD_MODEL] if models is None else models
    hints, checks = type_hints(cls), []  # type: ignore[arg-type]
    for field in dataclasses.fields(cls):
        trials = list(_trials(field.name, hints[field.name], field.default))
        if trials:
            check = functools.partial(_check_option, cls, trials, chosen)
            checks.append(Check(f"runs with each value of {field.name}", check))
    return checks


def _trials(name: str, hint: Any, default: Any) -> Iterator[dict[str, Any]]:
    """The options to run a pass with, for each value of one of them. All at their defaults is no trial."""
    for others in (
        {},
        *(dict(extra.options) for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, With)),
    ):
        for value in option_values(hint, default):
            if others or value != default or type(value) is not type(default):
                yield {**others, name: value}


def _check_option(cls: type[Pass], trials: list[dict[str, Any]], models: Sequence[SmallModel]) -> str:
    failed, refused = [], 0
    for options in trials:
        for where, program, behind in _programs(cls, models):
            try:
                outcome = run_pass(cls(**options), program, behind=behind)
                check_interface(program, outcome.program)
            except Exception as error:
                if isinstance(error, FxoptError) and not isinstance(error, (VerifyError, PassCrashError)):
                    refused += 1
                    continue
                text = f"{format_call(cls.name, options)} on {where}: {type(error).__name__}: {text_of(error)}"
                failed.append(text)
    require(
        not failed,
        "\n".join(failed) + "\n  mend it, refuse the value with an OptionError, or narrow the type of the option",
    )
    return ", ".join(format_call("", options) for options in trials) + (f"; {refused} runs refused" if refused else "")


def _programs(cls: type[Pass], models: Sequence[SmallModel]) -> Iterator[tuple[str, Program, str]]:
    """The programs to run the pass on: a name, the program, and the passes to run first."""
    example = find_example(cls)
    if example is not None:
        yield "the docstring's example", parse_program(example.before), example.behind
    for model in models:
        yield model.name, model.program(), ""
