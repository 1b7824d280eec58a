"""What came of a build, in one line."""

from __future__ import annotations

from fxopt.driver.report import BuildReport


def verdict(report: BuildReport) -> str:
    """One line: whether the budget is kept, how much smaller and faster, and what that costs."""
    parts = []
    if report.budget:
        missed = len(report.missed)
        parts.append(
            f"{missed} of {len(report.budget)} limits missed" if missed else f"all {len(report.budget)} limits kept"
        )
    before, after = report.before, report.after
    if after.file_bytes and before.file_bytes:
        parts.append(_times(before.file_bytes / after.file_bytes, "smaller", "larger"))
    elif after.weight_bytes and before.weight_bytes:
        parts.append(f"weights {_times(before.weight_bytes / after.weight_bytes, 'smaller', 'larger')}")
    if before.latency and after.latency:
        parts.append(_times(before.latency.median_ms / after.latency.median_ms, "as fast", "slower"))
    if before.metric is not None and after.metric is not None:
        parts.append(f"{report.metric} {before.metric:.4g} → {after.metric:.4g}")
    return ", ".join(parts) or "built"


def _times(ratio: float, more: str, less: str) -> str:
    if 0.995 < ratio < 1.005:
        return "as large" if more == "smaller" else "as fast as before"
    return f"{ratio:.3g} times {more}" if ratio > 1 else f"{1 / ratio:.3g} times {less}"
