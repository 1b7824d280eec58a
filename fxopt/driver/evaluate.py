"""Before against after: metric, size, latency, memory, and the budget."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.ir.program import Program
from fxopt.numerics.module_state import copied
from fxopt.runtime.artifact import Artifact, model_bytes
from fxopt.runtime.device import cannot_time
from fxopt.runtime.interleaved import peak_of, time_artifacts
from fxopt.target import Target
from fxopt.workload import Workload
from fxopt.workload.batching import fixed_batch, in_batches


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
