"""Evaluate an artifact against the original model, built by the same backend: metric, size, latency, memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.driver.report import BuiltFigures, Costs, Eager, Figures, Latency
from fxopt.ir.program import Program
from fxopt.numerics.module_state import copied
from fxopt.runtime.artifact import Artifact, model_bytes
from fxopt.runtime.device import cannot_time
from fxopt.runtime.interleaved import peak_of, time_artifacts
from fxopt.workload import Workload
from fxopt.workload.batching import fixed_batch, in_batches


@dataclass(frozen=True)
class Comparison:
    """The model as captured (``before``, built by the same backend if it is timed) and as built (``after``).

    ``not_timed`` says why there is no latency; ``eager`` is torch, where all run on this machine.
    """

    before: Figures
    after: BuiltFigures
    eager: Eager | None = None
    not_timed: str | None = None

    @property
    def metric_drop(self) -> float | None:
        """By how much the metric fell; None where one of the two is unknown."""
        before, after = self.before.metric, self.after.metric
        return None if before is None or after is None else before - after


def compare(
    workload: Workload,
    program: Program,
    reference: Artifact | None,
    built: Artifact,
    costs: tuple[Costs, Costs],
) -> Comparison:
    """Evaluate and time two artifacts side by side, given the costs of their programs; without a ``reference`` none is timed.

    Artifacts on a device are evaluated there, without eager, as it has no torch.
    """
    before: dict[str, Any] = dict(costs[0]) | {"file_bytes": None if reference is None else model_bytes(reference)}
    after: dict[str, Any] = dict(costs[1]) | {"file_bytes": model_bytes(built)}
    runs = built.elsewhere is None
    if workload.data is not None:
        size = fixed_batch(program)
        known = getattr(workload.data, "metric_of_original", None)
        before["metric"] = workload.data.evaluate(in_batches(program, size), "test") if known is None else known
        if runs:
            after["metric"] = workload.data.evaluate(in_batches(built, size), "test")
    eager, reason = None, cannot_time(built.manifest.target) if reference is not None else None
    if reference is not None and reason is None:
        args, kwargs = copied((program.args, program.kwargs))  # a model may write into its inputs
        arrays = pytree.tree_map(to_numpy, (args, kwargs))
        timings = time_artifacts(
            {"before": (reference, *arrays), "after": (built, *arrays)}, {"eager": lambda: program(*args, **kwargs)}
        )
        if "eager" in timings:
            eager = Eager(latency=Latency.of(timings["eager"]), threads=torch.get_num_threads())
        before["latency"], after["latency"] = Latency.of(timings["before"]), Latency.of(timings["after"])
    if reference is not None and runs:
        before["peak_memory_bytes"], after["peak_memory_bytes"] = peak_of(reference), peak_of(built)
    return Comparison(Figures(**before), BuiltFigures(**after), eager, reason)


def to_numpy(value: Any) -> Any:
    """A tensor as an array of numpy; anything else unchanged."""
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value
