"""Before against after: metric, size, latency, memory, and the budget."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.agreement import copied
from fxopt.artifact import Artifact
from fxopt.batching import fixed_batch, in_batches
from fxopt.compare import sqnr
from fxopt.measure import interleave, peak_memory
from fxopt.pipeline import Step, StepResult, Watcher
from fxopt.program import Program
from fxopt.recipe import Budget
from fxopt.running import untouched
from fxopt.workload import Data, Workload


def metric_watcher(data: Data) -> Watcher:
    """Watcher that notes what an approximate step does on the validation split: the metric, and the SQNR in dB.

    The SQNR is over one batch, against the program before the step; it takes the place of that on random inputs, which
    lie outside the range that a calibration on real data saw.
    """

    @contextlib.contextmanager
    def watch(step: Step, program: Program, result: StepResult) -> Iterator[None]:
        yield
        if step.pass_.kind == "approx" and result.changed:
            size = fixed_batch(program)
            (args, _) = next(iter(data.batches("validation", batch_size=32)))
            with untouched(step.before), untouched(program):
                want, got = (pytree.tree_leaves(in_batches(p, size)(*args)) for p in (step.before, program))
                result.findings["sqnr_db"] = sqnr(want, got)
                result.findings["metric"] = data.evaluate(in_batches(program, size), "validation")

    return watch


def compare(
    workload: Workload, program: Program, reference: Artifact, built: Artifact, *, timed: bool
) -> dict[str, Any]:
    """Figures of the model as captured (``before``, built by the same backend) and as built (``after``)."""
    before: dict[str, Any] = {"file_bytes": model_bytes(reference)}
    after: dict[str, Any] = {"file_bytes": model_bytes(built)}
    report: dict[str, Any] = {"before": before, "after": after}
    if workload.data is not None:
        report["metric"] = workload.data.metric
        size = fixed_batch(program)
        before["metric"] = workload.data.evaluate(in_batches(program, size), "test")
        after["metric"] = workload.data.evaluate(in_batches(built, size), "test")
    if timed:
        args, kwargs = copied((program.args, program.kwargs))  # a model may write into its inputs
        arrays = pytree.tree_map(to_numpy, (args, kwargs))
        timings = interleave(
            {
                "eager": lambda: program(*args, **kwargs),
                "before": lambda: reference(*arrays[0], **arrays[1]),
                "after": lambda: built(*arrays[0], **arrays[1]),
            }
        )
        report["eager"] = {"latency": timings["eager"].to_dict(), "threads": torch.get_num_threads()}
        before |= {"latency": timings["before"].to_dict(), "peak_memory_bytes": peak_memory(reference.folder)}
        after |= {"latency": timings["after"].to_dict(), "peak_memory_bytes": peak_memory(built.folder)}
    return report


def to_numpy(value: Any) -> Any:
    """A tensor as an array of numpy; anything else unchanged."""
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


def model_bytes(built: Artifact) -> int:
    """Size of the compiled model in bytes."""
    return sum((Path(built.folder) / name).stat().st_size for name in built.manifest["files"])


def budget_lines(budget: Budget, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Each limit with what was reached, whether it is met, and a sentence."""
    before, after = report["before"], report["after"]
    latency = after.get("latency", {}).get("median_ms")
    drop = before["metric"] - after["metric"] if "metric" in after else None
    reached = {"metric_drop": drop, "latency_ms": latency, "file_bytes": after["file_bytes"], "macs": after["macs"]}
    lines = []
    for name, value in reached.items():
        limit = getattr(budget, name)
        if limit is None:
            continue
        met = value is not None and value <= limit + 1e-9
        if value is None:
            text = f"{name}: limit {limit:.6g}, not measured"
        else:
            text = f"{name}: {value:.6g}, limit {limit:.6g}" + ("" if met else f", over by {value - limit:.6g}")
        lines.append({"name": name, "limit": limit, "value": value, "met": met, "text": text})
    return lines
