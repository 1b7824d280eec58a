"""Figures of builds for a tracker of experiments, such as MLflow or Weights & Biases, as they come."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator

from fxopt.driver.report import BuildReport
from fxopt.pass_manager.step import StepResult

Log = Callable[[dict[str, float], int], object]
"""Takes figures by name and the number of the step: ``mlflow.log_metrics``, or ``run.log`` of a run of Weights & Biases."""


@contextlib.contextmanager
def tracked(log: Log) -> Iterator[None]:
    """Give ``log`` the figures of every step that is run inside, from the cache too, and behind them those of the artifact.

    Of a step: ``seconds``, ``error`` of an exact one, ``sqnr_db`` and ``metric`` of an approximate one, ``macs`` and
    ``weight_bytes`` of the program behind it. Of an artifact: ``file_bytes``, ``test_metric``, ``latency_ms``,
    ``metric_before``, ``latency_ms_before``. What is not known or not finite is left out. Whatever ``log`` raises ends the build.
    """
    logger, handler = logging.getLogger("fxopt"), _Sending(log)
    before = logger.level
    logger.setLevel(min(logger.getEffectiveLevel(), logging.INFO))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Sending(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        step, report = getattr(record, "step", None), getattr(record, "report", None)
        if isinstance(step, StepResult):
            self._log(_of_step(step), int(getattr(record, "number", 0)))
        elif isinstance(report, BuildReport):
            self._log(_of_report(report), len(report.steps) + 1)


def _of_step(step: StepResult) -> dict[str, float]:
    found = {"seconds": step.seconds, "error": step.findings.error, "sqnr_db": step.findings.sqnr_db,
             "metric": step.findings.metric}  # fmt: skip
    if step.cost is not None:
        found |= {"macs": step.cost.macs, "weight_bytes": step.cost.bytes}
    return _known(found)


def _of_report(report: BuildReport) -> dict[str, float]:
    before, after = report.before, report.after
    return _known({
        "file_bytes": after.file_bytes, "test_metric": after.metric, "metric_before": before.metric,
        "latency_ms": after.latency.median_ms if after.latency else None,
        "latency_ms_before": before.latency.median_ms if before.latency else None,
    })  # fmt: skip


def _known(figures: dict[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if value is not None and math.isfinite(value)}
