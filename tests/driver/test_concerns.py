"""What is said of an artifact that is slower or worse than it should be: figures in, a typed concern out."""

import pytest

from fxopt.driver.concerns import concerns_about
from fxopt.driver.report import Figures, Latency
from fxopt.pass_manager.step import Findings, StepResult


def figures(ms, metric=None, spread=0.02, macs=100):
    latency = Latency(median_ms=ms, low_ms=ms * (1 - spread), high_ms=ms * (1 + spread), blocks=9) if ms else None
    return Figures(macs=macs, parameters=1, weight_bytes=4, file_bytes=4, metric=metric, latency=latency)


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (figures(10), figures(14.2), ["slower_than_float"]),
        (figures(10), figures(10.5), []),
        (figures(10), figures(14.2, spread=0.5), []),  # noise
        (figures(10), figures(5), []),
        (figures(None), figures(None), []),
        (figures(10, 0.90), figures(5, 0.78), ["metric_lost"]),
        (figures(10, 0.90), figures(5, 0.89), []),
        (figures(10, 0.90), figures(20, 0.5), ["slower_than_float", "metric_lost"]),
    ],
)
def test_a_loss_is_said_and_a_tie_is_not(before, after, kinds):
    found = concerns_about(before, after, "top-1", [], quantized=True)
    assert [concern.kind for concern in found] == kinds
    assert all(concern.way_out and concern.ratio != 1 for concern in found)


@pytest.mark.parametrize(
    ("macs", "ms", "kinds"),
    [
        (48, 16.3, ["smaller_not_faster"]),
        (48, 10, ["smaller_not_faster"]),  # half of the work in all of the time
        (48, 6, []),
        (90, 10, []),  # next to nothing was taken away
        (100, 16.3, []),
    ],
)
def test_fewer_macs_that_are_not_faster_are_named(macs, ms, kinds):
    found = concerns_about(figures(10), figures(ms, macs=macs), None, [], quantized=False)
    assert [concern.kind for concern in found] == kinds


def test_a_narrow_int8_model_slower_than_float_has_one_concern():
    found = concerns_about(figures(10), figures(16, macs=48), None, [], quantized=True)
    assert [concern.kind for concern in found] == ["slower_than_float"]


def step(text, metric, **facts):
    return StepResult(text, "approx", findings=Findings(metric=metric), **facts)


@pytest.mark.parametrize(
    ("pruned", "quantized", "blamed", "to_try"),
    [(0.10, 0.10, "by prune_channels", "distill"), (0.90, 0.10, "by quantize", "explain quant")],
)
def test_the_step_that_lost_the_metric_is_named_with_what_helps_there(pruned, quantized, blamed, to_try):
    """Quantization was blamed for what pruning had lost, as it is the last step."""
    steps = [
        step("zero_channels", pruned, part_of="prune_channels"),
        step("shrink", None, part_of="prune_channels"),
        step("insert_qdq", quantized, part_of="quantize", quantizes=True),
    ]
    (found,) = concerns_about(figures(10, 0.95), figures(2, quantized), "top-1", steps, quantized=True)
    assert blamed in found.text
    assert to_try in found.way_out


def test_a_float_build_that_lost_the_metric_says_so():
    (found,) = concerns_about(figures(10, 0.95), figures(2, 0.1), "top-1", [step("low_rank", 0.1)], quantized=False)
    assert (found.kind, "by low_rank" in found.text) == ("metric_lost", True)
