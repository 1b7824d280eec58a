"""Differences of two builds: what was asked for, what was reached and what is worse, and the layers."""

import pytest
import torch
from torch import nn

import fxopt
from fxopt.driver.build import build
from fxopt.driver.diff import diff
from fxopt.driver.recipe import Recipe
from fxopt.driver.report import BuildReport, Latency


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    place = tmp_path_factory.mktemp("diff")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    fxopt.save_program(fxopt.capture(net, (torch.randn(1, 3, 8, 8),)), place / "net.pt2")
    for name, passes in (("a", ()), ("b", ("fold_batch_norm",))):
        build(Recipe(str(place / "net.pt2"), passes, "eager"), place / name, measure=False)
    return BuildReport.read(place / "a"), BuildReport.read(place / "b")


def test_a_build_does_not_differ_from_itself(reports):
    assert diff(reports[0], reports[0]).differences == []


def test_recipe_results_and_layers_are_compared_each_in_its_kind(reports):
    found = {d.what: d for d in diff(*reports).differences}
    assert found["recipe passes"].kind == "asked"
    assert (found["recipe passes"].a, found["recipe passes"].b) == ("[]", "['fold_batch_norm']")
    assert found["batch_norm"].kind == "layer"
    assert found["batch_norm"].b is None
    assert found["parameters"].kind == "reached"
    assert found["parameters"].ratio < 1


def test_smaller_is_better_and_the_other_way_worse(reports):
    assert "parameters" not in [d.what for d in diff(*reports).worse]
    assert "parameters" in [d.what for d in diff(*reversed(reports)).worse]


def _timed(report, median, low, high):
    latency = Latency(median_ms=median, low_ms=low, high_ms=high, blocks=11)
    return report.model_copy(update={"after": report.after.model_copy(update={"latency": latency})})


@pytest.mark.parametrize(
    ("later", "worse"),
    [((1.5, 1.4, 1.6), True), ((1.5, 1.05, 1.6), False), ((1.04, 1.035, 1.05), False), ((0.5, 0.4, 0.6), False)],
)
def test_latency_is_worse_only_where_it_clearly_is(reports, later, worse):
    found = diff(_timed(reports[0], 1.0, 0.9, 1.1 if later[1] == 1.05 else 1.03), _timed(reports[0], *later))
    assert [d.what for d in found.worse] == ["latency_ms"] * worse


def test_a_metric_that_fell_and_a_limit_that_is_missed_are_worse(reports):
    report = reports[0]
    with_metric = [
        report.model_copy(update={"after": report.after.model_copy(update={"metric": m})}) for m in (0.9, 0.8)
    ]
    assert [d.what for d in diff(*with_metric).worse] == ["metric on test data"]
    assert diff(*reversed(with_metric)).worse == []


def test_the_command_ends_with_one_where_something_is_worse(reports, monkeypatch, capsys):
    import sys

    from fxopt.cli.main import main

    codes = []
    for pair in (reports, reports[::-1]):
        monkeypatch.setattr(sys, "argv", ["fxopt", "diff", *(str(report.folder) for report in pair)])
        try:
            main()
            codes.append(0)
        except SystemExit as stop:
            codes.append(stop.code or 0)
    assert codes[1] == 1
    assert "parameters" in capsys.readouterr().err
