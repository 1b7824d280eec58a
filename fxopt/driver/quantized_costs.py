"""Whether quantization is worth it, reported with or without a budget."""

from __future__ import annotations

from fxopt.driver.report import Concern, Figures

_TIE = 1.1
"""Medians of one build that differ by less are a tie: blocks of calls vary by 5 to 10 %."""
_LOSS = 0.05
"""Share of the metric from which a loss is reported."""


def concerns_about(before: Figures, after: Figures, metric: str | None) -> list[Concern]:
    """Concerns about a quantized artifact, from figures measured side by side: it is slower, or its metric fell."""
    found = []
    if before.latency and after.latency:
        ratio = after.latency.median_ms / before.latency.median_ms
        if ratio > _TIE and after.latency.low_ms > before.latency.high_ms:
            text = f"int8 does not pay here: {ratio:.2f} times the latency of float"
            way_out = (
                "leave it in float, quantize weights alone for a smaller file, or take -b fastest, which tries both"
            )
            found.append(Concern(kind="slower_than_float", ratio=ratio, text=text, way_out=way_out))
    if before.metric and after.metric is not None and before.metric - after.metric > _LOSS * abs(before.metric):
        text = f"{metric or 'the metric'} fell from {before.metric:.4g} to {after.metric:.4g}"
        way_out = (
            "fxopt explain quant MODEL names the layers that cost most; quantize(metric_drop=…) leaves them in float"
        )
        found.append(Concern(kind="metric_lost", ratio=after.metric / before.metric, text=text, way_out=way_out))
    return found
