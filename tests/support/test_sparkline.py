"""Histograms as text."""

from fxopt.support.sparkline import sparkline


def test_bars_follow_the_root_and_none_is_a_space():
    assert sparkline([0, 1, 16, 64], 4) == " ▁▄█"


def test_parts_are_summed_where_there_are_more_than_bars():
    assert sparkline([1, 15, 32, 32], 2) == sparkline([16, 64], 2) == "▄█"


def test_no_counts_at_all():
    assert sparkline([0, 0], 2) == "  "
