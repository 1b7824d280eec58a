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
from fxopt.device import cannot_time
from fxopt.pipeline import Step, StepResult, Watcher
from fxopt.program import Program
from fxopt.recipe import Budget
from fxopt.running import untouched
from fxopt.side_by_side import peak_of, time_artifacts
from fxopt.target import Target, not_here
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
    """Figures of the model as captured (``before``, built by the same backend) and as built (``after``).

    What runs on a device is judged there, beside no eager, as torch is not there. ``not_timed`` says why there is no latency.
    """
    before: dict[str, Any] = {"file_bytes": model_bytes(reference)}
    after: dict[str, Any] = {"file_bytes": model_bytes(built)}
    report: dict[str, Any] = {"before": before, "after": after}
    if workload.data is not None:
        report["metric"] = workload.data.metric
        size = fixed_batch(program)
        before["metric"] = workload.data.evaluate(in_batches(program, size), "test")
        if built.elsewhere is None:
            after["metric"] = workload.data.evaluate(in_batches(built, size), "test")
    if timed and (reason := cannot_time(Target.of(built.manifest["target"]))):
        report["not_timed"] = reason
    elif timed:
        args, kwargs = copied((program.args, program.kwargs))  # a model may write into its inputs
        arrays = pytree.tree_map(to_numpy, (args, kwargs))
        timings = time_artifacts(
            {"before": (reference, *arrays), "after": (built, *arrays)}, {"eager": lambda: program(*args, **kwargs)}
        )
        if "eager" in timings:
            report["eager"] = {"latency": timings["eager"].to_dict(), "threads": torch.get_num_threads()}
        before["latency"], after["latency"] = timings["before"].to_dict(), timings["after"].to_dict()
    if timed and built.elsewhere is None:
        before["peak_memory_bytes"], after["peak_memory_bytes"] = peak_of(reference), peak_of(built)
    return report


def to_numpy(value: Any) -> Any:
    """A tensor as an array of numpy; anything else unchanged."""
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


def model_bytes(built: Artifact) -> int:
    """Size of the compiled model in bytes."""
    return sum((Path(built.folder) / name).stat().st_size for name in built.manifest["files"])


def device_lines(target: Target, report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the target has room for, beside what is planned and built, as :func:`budget_lines` has it; nothing for no limit.

    Nothing either for this machine, where it was run.
    """
    if target.address is None and not_here(target) is None:
        return []
    memory, flash = report["memory"], report["after"]["file_bytes"]
    largest = "".join(f"\n    {size / 1e6:,.2f} MB: {where}" for where, size in memory["largest"])
    sides = (
        (
            "memory",
            target.memory,
            memory["weights"] + memory["values"],
            f" at {memory['at']}; the largest there:{largest}",
        ),
        ("flash", target.flash, flash, ": weights in fewer bits, or fewer of them, make the file smaller"),
    )
    lines = []
    for name, limit, value, advice in sides:
        if limit is not None:
            text = f"{name} of {target.name}: {value:,} bytes, limit {limit:,}"
            met = value <= limit
            text += "" if met else f", over by {value - limit:,}{advice}"
            lines.append({"name": name, "limit": limit, "value": value, "met": met, "text": text})
    return lines


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
