"""The contract's check of options finds a value that breaks, and lets one pass that is refused."""

import dataclasses
from typing import Annotated, Literal

import pytest
import torch
from annotated_types import Ge, Gt, Interval, Le, Lt, MultipleOf

from fxopt import Program, graph_pass, registry
from fxopt.errors import OptionError
from fxopt.support.options import With, check_option, type_hints
from fxopt.testing import ContractError, check_pass, run_checks
from fxopt.testing.option_values import option_values

_DOC = """Let users of a double negation read what is negated.

before: %x : f32[2,3]; %y = aten.neg(%x); %z = aten.neg(%y); %r = aten.relu(%z)
after: %x : f32[2,3]; %r = aten.relu(%x)
"""


def _drop(program: Program) -> None:
    for outer in program.find("aten.neg"):
        inner = outer.args[0]
        if inner.target is torch.ops.aten.neg.default and len(inner.users) == 1:
            program.replace(outer, inner.args[0])


def _failures(cls):
    return {result.name: result.detail for result in run_checks(cls, models=[]) if not result.passed}


def _made(kind="exact"):
    """Make a pass of a function that has the example of :data:`_DOC`."""

    def decorate(function):
        function.__doc__ = _DOC
        return graph_pass(kind=kind)(function)

    return decorate


@_made()
def sound(
    program: Program,
    *,
    how: Literal["one", "two"] = "one",
    share: Annotated[float, Gt(0), Lt(1)] | None = None,
    often: bool = False,
) -> None:
    if how == "two":
        raise OptionError("how='two' wants a share")
    _drop(program)


@_made()
def crashes_for_a_literal(program: Program, *, good: bool = True, how: Literal["one", "two"] = "one") -> None:
    if how == "two":
        raise KeyError("no rule")
    _drop(program)


@_made()
def wrong_for_false(program: Program, *, how: Literal["one", "two"] = "one", careful: bool = True) -> None:
    if not careful:
        for node in program.find("aten.neg"):
            program.replace(node, node.args[0])
            return
    _drop(program)


@_made()
def notes_at_a_bound(program: Program, *, share: Annotated[float, Gt(0), Le(1)] = 0.5) -> None:
    if share == 1:
        program.notes = (*program.notes, "all of them")
    _drop(program)


@_made()
def wrong_with_another(
    program: Program, *, deep: bool = False, seed: Annotated[int, Ge(0), With(deep=True)] = 0
) -> None:
    if deep and seed:
        raise ZeroDivisionError
    _drop(program)


def test_a_pass_that_runs_or_refuses_passes():
    check_pass(sound, models=[])
    (how,) = (r for r in run_checks(sound, models=[]) if r.name == "runs with each value of how")
    assert how.detail == "(how='two'); 1 runs refused"


@pytest.mark.parametrize(
    ("cls", "option", "told"),
    [
        (crashes_for_a_literal, "how", ["crashes_for_a_literal(how='two')", "PassCrashError", "KeyError: 'no rule'"]),
        (wrong_for_false, "careful", ["wrong_for_false(careful=False)", "VerifyError", "output 0 changed"]),
        (notes_at_a_bound, "share", ["notes_at_a_bound(share=1.0)", "VerifyError", "program.notes"]),
        (wrong_with_another, "seed", ["wrong_with_another(deep=True, seed=1)", "ZeroDivisionError"]),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_the_value_that_breaks_is_named_and_no_other_check_fails(cls, option, told):
    ((check, message),) = _failures(cls).items()
    assert check == f"runs with each value of {option}"
    assert all(words in message for words in told)
    assert message.count("on the docstring's example") == 1, "the other values are sound"
    with pytest.raises(ContractError, match=option):
        check_pass(cls, models=[])


@pytest.mark.parametrize(
    ("hint", "default", "values"),
    [
        (Literal["a", "b"], "a", ["a", "b"]),
        (Literal["a"] | str, "", ["", "a"]),
        (bool, True, [True, False]),
        (int, 0, [0, 1]),
        (float | None, None, [None, 1.0]),
        (Annotated[int, Ge(1)] | Literal["target"], 1, [1, 2, "target"]),
        (Annotated[int, Interval(gt=0, le=30), MultipleOf(8)], 8, [8, 24, 16]),
        (Annotated[float, Ge(0), Le(4)], 1.0, [1.0, 0.0, 4.0, 2.0]),
        (Annotated[float, Gt(0)] | None, None, [None, 5e-324, 1.0]),
        (Annotated[int, With(by="x")], 3, [3, 1]),
        (tuple[Literal["a", "b"], ...], (), [(), ("a",), ("b",)]),
        (str, "x", ["x"]),
    ],
    ids=str,
)
def test_a_type_names_its_values(hint, default, values):
    found = option_values(hint, default)
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values], "True is not 1"


def test_an_exclusive_bound_gives_the_number_next_to_it():
    low, high, _ = option_values(Annotated[float, Gt(0), Lt(1)], 0.5)[1:]
    assert 0 < low < 1e-300
    assert 1 - 1e-15 < high < 1


@pytest.mark.parametrize("name", registry.names("pass"))
def test_every_value_is_one_that_the_type_allows(name):
    cls = registry.get("pass", name)
    for field in dataclasses.fields(cls):
        hint = type_hints(cls)[field.name]
        assert [check_option(name, hint, value) for value in option_values(hint, field.default)]
