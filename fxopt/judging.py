"""Before against after: metric, size, latency, memory, agreement with eager, and the budget."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fxopt.artifact import Artifact
from fxopt.facts import plain
from fxopt.measure import interleave, peak_memory
from fxopt.pipeline import Step, StepResult, Watcher
from fxopt.program import Program
from fxopt.recipe import Budget
from fxopt.verify import probe_inputs, relative_error, sqnr
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
            (args, _) = next(iter(data.batches("validation", batch_size=_batch(program))))
            want, got = (torch.utils._pytree.tree_leaves(p(*args)) for p in (step.before, program))
            result.findings["sqnr_db"] = sqnr(want, got)
            result.findings["metric"] = data.evaluate(program, "validation")

    return watch


def _batch(program: Program) -> int:
    """32 images, or as many as a program with a fixed batch takes."""
    sizes = [
        s for n in program.inputs() if isinstance(v := n.meta.get("val"), torch.Tensor) and v.dim() for s in v.shape[:1]
    ]
    return next((s for s in sizes if isinstance(s, int)), 32)


def compare(
    workload: Workload, program: Program, reference: Artifact, built: Artifact, *, timed: bool
) -> dict[str, Any]:
    """Figures of the model as captured (``before``, built by the same backend) and as built (``after``)."""
    before: dict[str, Any] = {"file_bytes": _model_bytes(reference)}
    after: dict[str, Any] = {"file_bytes": _model_bytes(built)}
    report: dict[str, Any] = {"before": before, "after": after}
    if workload.data is not None:
        report["metric"] = workload.data.metric
        before["metric"] = workload.data.evaluate(program, "test")
        after["metric"] = workload.data.evaluate(built, "test")
    if timed:
        args, kwargs = program.args, program.kwargs
        arrays = torch.utils._pytree.tree_map(_to_numpy, (args, kwargs))
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


def agreement(program: Program, built: Artifact) -> dict[str, Any]:
    """How the artifact agrees with the same program run eagerly, on the example inputs and on random ones.

    ``relative_error`` is the largest over the outputs; ``sqnr_db`` the lowest, in dB.
    """
    errors, ratios = [], []
    for probe in probe_inputs(program):
        spec = torch.utils._pytree.tree_structure((program.args, program.kwargs))
        args, kwargs = torch.utils._pytree.tree_unflatten(probe, spec)
        want = torch.utils._pytree.tree_leaves(program(*args, **kwargs))
        arrays = torch.utils._pytree.tree_map(_to_numpy, (args, kwargs))
        got = torch.utils._pytree.tree_leaves(built(*arrays[0], **arrays[1]))
        got = [v if v is None else torch.from_numpy(np.array(v)) for v in got]
        errors += [relative_error(a, b) for a, b in zip(want, got, strict=True)]
        ratios.append(sqnr(want, got))
    return {"relative_error": plain(max(errors, default=0.0)), "sqnr_db": plain(min(ratios))}


def _to_numpy(value: Any) -> Any:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


def _model_bytes(built: Artifact) -> int:
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
