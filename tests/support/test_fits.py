"""What fits without pydantic is what pydantic takes, strictly and unchanged."""

import math
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Lt, MinLen, MultipleOf
from pydantic import TypeAdapter, ValidationError

from fxopt.errors import OptionError
from fxopt.support.fits import fits
from fxopt.support.options import check_option

HINTS = [
    int, float, str, bool, int | None, float | str, Literal["a", 1, None], list[int], tuple[str, ...], tuple[int, str],
    list[list[float]], dict[str, int], Annotated[int, Gt(0), Lt(5)], Annotated[float, Ge(0), Le(1)],
    Annotated[float, Interval(gt=0, le=1)], Annotated[int, MultipleOf(4)], Annotated[str, MinLen(2)],
    Annotated[int, Interval(ge=0)] | None, list[Annotated[int, Gt(0)]], Any,
]  # fmt: skip
VALUES = [
    0, 1, -1, 5, 8, True, False, 0.0, 0.5, 1.0, 2.5, math.inf, math.nan, "", "a", "ab", None, [], [1], [0], ["a"], [True], [1.5],
    [[1.0]], [[1]], (), ("a",), (1, "a"), {}, {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("hint", HINTS, ids=str)
def test_what_fits_is_taken_by_pydantic_unchanged(hint):
    adapter = TypeAdapter(hint)
    for value in filter(lambda value: fits(hint, value), VALUES):
        taken = adapter.validate_python(value, strict=True)
        assert type(taken) is type(value)
        assert taken == value or taken != taken


@pytest.mark.parametrize(
    ("hint", "value"),
    [(int, 3), (bool, True), (float | None, None), (Literal["x", "y"], "y"), (tuple[str, ...], ("a",)), (list[str], []),
     (Annotated[float, Interval(gt=0, le=1)], 1.0), (Annotated[int, Gt(0), Lt(2**63)], 4)],
)  # fmt: skip
def test_what_options_are_mostly_made_of_fits(hint, value):
    assert fits(hint, value)


@pytest.mark.parametrize("hint", [h for h in HINTS if h is not Any], ids=str)
def test_an_option_takes_what_pydantic_takes(hint):
    adapter = TypeAdapter(hint)
    for value in VALUES:
        try:
            wanted = adapter.validate_python(value, strict=True)
        except ValidationError:
            wanted = OptionError
        if isinstance(value, list) and str(hint).startswith("tuple"):
            continue  # which become tuples first
        if wanted is OptionError:
            with pytest.raises(OptionError):
                check_option("x", hint, value)
        else:
            assert repr(check_option("x", hint, value)) == repr(wanted)
