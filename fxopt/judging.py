"""Before against after: metric, size, latency, memory, agreement with eager, and the budget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from fxopt.agreement import copied
from fxopt.artifact import Artifact
from fxopt.batching import fixed_batch, in_batches
from fxopt.compare import relative_error, sqnr
from fxopt.errors import BackendError
from fxopt.facts import plain
from fxopt.measure import interleave, peak_memory
from fxopt.ops import family
from fxopt.pipeline import Step, StepResult, Watcher
from fxopt.probes import probe_inputs
from fxopt.program import Program
from fxopt.recipe import Budget
from fxopt.running import untouched
from fxopt.text import type_text
from fxopt.workload import Data, Workload

_AGREEMENT = 1e-3
"""Largest relative difference between a program in float and what a backend built of it."""


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
    before: dict[str, Any] = {"file_bytes": _model_bytes(reference)}
    after: dict[str, Any] = {"file_bytes": _model_bytes(built)}
    report: dict[str, Any] = {"before": before, "after": after}
    if workload.data is not None:
        report["metric"] = workload.data.metric
        size = fixed_batch(program)
        before["metric"] = workload.data.evaluate(in_batches(program, size), "test")
        after["metric"] = workload.data.evaluate(in_batches(built, size), "test")
    if timed:
        args, kwargs = copied((program.args, program.kwargs))  # a model may write into its inputs
        arrays = pytree.tree_map(_to_numpy, (args, kwargs))
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


def agreement(captured: Program, program: Program, built: Artifact) -> dict[str, Any]:
    """How the artifact agrees with ``program``, which it was built of, on the example inputs and on random ones.

    ``relative_error`` is the largest over the outputs; ``sqnr_db`` the lowest, in dB. Raises BackendError where the
    artifact gives something else: an error above 1e-3, or for a quantized program more noise than quantization itself
    made, against the program as ``captured``.
    """
    errors, ratios, own = [0.0], [], []
    for probe in probe_inputs(program):
        want, original, got = (_outputs(run, program, probe) for run in (program, captured, built))
        for i, (a, b) in enumerate(zip(want, got, strict=True)):
            if _type(a) != _type(b):
                raise BackendError(f"the backend built a model whose output {i} is {_type(b)}, expected {_type(a)}")
        errors += [relative_error(a, b) for a, b in zip(want, got, strict=True)]
        ratios.append(sqnr(want, got))
        own.append(sqnr(original, want))
    quantized = any(family(node) == "quant" for node in program.graph.nodes)
    if min(ratios) < min(own) if quantized else max(errors) > _AGREEMENT:
        limit = f"{min(own):.1f} dB, as quantization itself" if quantized else f"{_AGREEMENT:g} relative"
        raise BackendError(
            f"what {built.manifest['backend']} built gives other numbers than the program: off by {max(errors):.2g} relative, "
            f"{min(ratios):.1f} dB; allowed {limit}\n  an op is exported or run wrongly; leave passes or parts out to find it, "
            "or try an option of the backend such as onnx(optimization_level='basic')"
        )
    return {"relative_error": plain(max(errors)), "sqnr_db": plain(min(ratios))}


def _outputs(run: Callable[..., Any], program: Program, probe: list[Any]) -> list[Any]:
    """Flat outputs as tensors, from copies of flat inputs: a model may write into them."""
    leaves = [_to_numpy(v) if isinstance(run, Artifact) else v for v in copied(probe)]
    args, kwargs = pytree.tree_unflatten(leaves, pytree.tree_structure((program.args, program.kwargs)))
    return [
        torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v
        for v in pytree.tree_leaves(run(*args, **kwargs))
    ]


def _type(value: Any) -> str:
    return type_text(value) if isinstance(value, torch.Tensor) else repr(value)


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
