"""Whether a build was worth it, reported with or without a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxopt.driver.report import Concern, Figures
from fxopt.pass_manager.step import StepResult

_TIE = 1.1
"""Medians of one build that differ by less are a tie: blocks of calls vary by 5 to 10 %."""
_LOSS = 0.05
"""Share of the metric from which a loss is reported."""
_OF_INT8 = "fxopt explain quant MODEL names the layers that cost most; quantize(metric_drop=…) leaves them in float"
_OF_OTHERS = (
    "train behind it, with distill, which needs no labels, or finetune; or ask for less, with a reconstruct behind it"
)
_FEWER = 0.75
"""Share of the MACs up to which less time is expected."""


def concerns_about(
    before: Figures, after: Figures, metric: str | None, steps: Sequence[StepResult], *, quantized: bool
) -> list[Concern]:
    """Concerns about an artifact, from figures measured side by side: smaller but not faster; int8 slower; less accurate.

    Of a lost metric the step that lost most is named, by the metric on the validation split after each.
    """
    return [*_slowness(before, after, quantized), *_loss(before, after, metric, steps, quantized)]


def _slowness(before: Figures, after: Figures, quantized: bool) -> Iterator[Concern]:
    if not (before.latency and after.latency):
        return
    ratio = after.latency.median_ms / before.latency.median_ms
    if quantized and ratio > _TIE and after.latency.low_ms > before.latency.high_ms:
        text = f"int8 does not pay here: {ratio:.2f} times the latency of float"
        way_out = "leave it in float, quantize weights alone for a smaller file, or take -b fastest, which tries both"
        yield Concern(kind="slower_than_float", ratio=ratio, text=text, way_out=way_out)
    elif after.macs <= _FEWER * before.macs and ratio > 1 / _TIE:
        text = f"smaller is not faster here: {after.macs / before.macs:.2f} of the MACs take {ratio:.2f} times as long"
        way_out = (
            "prune_channels(multiple='target') leaves widths that the kernels of the target run well; fxopt profile shows "
            "where the time goes"
        )
        yield Concern(kind="smaller_not_faster", ratio=ratio, text=text, way_out=way_out)


def _loss(
    before: Figures, after: Figures, metric: str | None, steps: Sequence[StepResult], quantized: bool
) -> Iterator[Concern]:
    if not before.metric or after.metric is None or before.metric - after.metric <= _LOSS * abs(before.metric):
        return
    text = f"{metric or 'the metric'} fell from {before.metric:.4g} to {after.metric:.4g}"
    if step := _costliest(before.metric, steps):
        text, quantized = f"{text}, most of it by {step.part_of or step.text}", step.quantizes
    way_out = _OF_INT8 if quantized else _OF_OTHERS
    yield Concern(kind="metric_lost", ratio=after.metric / before.metric, text=text, way_out=way_out)


def _costliest(original: float, steps: Sequence[StepResult]) -> StepResult | None:
    """The step after which the metric fell most; None where no step has one."""
    found, most, last = None, 0.0, original
    for step in steps:
        if step.findings.metric is None:
            continue
        if last - step.findings.metric > most:
            found, most = step, last - step.findings.metric
        last = step.findings.metric
    return found
