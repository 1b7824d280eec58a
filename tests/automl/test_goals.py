"""Limits: read from text, absolute and relative, and how far beyond them something is."""

import math

import pytest

from fxopt.automl.goals import Goals, Limit, quantity
from fxopt.errors import OptionError, UnknownNameError

ORIGINAL = {"latency_ms": 4.0, "macs": 1000.0, "metric_drop": 0.0}


@pytest.mark.parametrize(
    ("what", "text", "bound"),
    [("latency", "0.5x", 2.0), ("latency", 3, 3.0), ("macs", "1_00", 100.0), ("drop", "0.01", 0.01)],
)
def test_a_limit_is_read_and_is_absolute_or_relative(what, text, bound):
    assert Limit.read(what, text).absolute(ORIGINAL) == bound


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "inf", "nan", "fast", "0.5xx"])
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(OptionError, match=r"latency.*0\.5x"):
        Limit.read("latency", text)


def test_a_metric_has_no_relative_limit_and_may_be_zero_or_negative():
    with pytest.raises(OptionError):
        Limit.read("drop", "0.5x")
    assert Limit.read("drop", "-0.01").bound == -0.01


def test_an_unknown_quantity_names_the_nearest():
    with pytest.raises(UnknownNameError, match="latency"):
        quantity("latncy")


def test_a_violation_is_a_log_ratio_and_zero_on_the_limit():
    limit = Limit.read("latency", "0.5x")
    assert limit.violation({"latency_ms": 2.0}, ORIGINAL) == 0
    assert limit.violation({"latency_ms": 2 * math.e}, ORIGINAL) == pytest.approx(1)
    assert limit.violation({}, ORIGINAL) is None
    goals = Goals((limit, Limit("metric_drop", 0.01)), ("metric_drop", "latency_ms"))
    assert goals.feasible({"latency_ms": 2.0, "metric_drop": 0.01}, ORIGINAL)
    assert not goals.feasible({"latency_ms": 2.0}, ORIGINAL)  # what is not known is not kept


@pytest.mark.parametrize(
    "objectives", [(), ("macs",), ("macs", "macs"), ("macs", "params", "file_bytes", "latency_ms")]
)
def test_objectives_are_two_or_three_different_ones(objectives):
    with pytest.raises(OptionError, match="two or three"):
        Goals((), objectives)
