"""What each kernel of an ONNX model takes, by ONNX Runtime's own profiler; nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxopt.backend.kernel_time import KernelTime
from fxopt.backends.onnx.profiler_cost import KERNEL, central_mean, overhead
from fxopt.backends.onnx.runtime import open_session
from fxopt.support.scratch import scratch_folder


def profile(
    path: Path, options: Any, inputs: list[Any], calls: int, nodes: Mapping[str, str], *, float16: bool, gpu: bool
) -> list[KernelTime]:
    """Kernels in the order of a call, with their times less what the profiler adds, and the call itself; ``nodes`` are
    those of the program, by ONNX names.
    """
    with scratch_folder() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        session = open_session(path, options, float16=float16, gpu=gpu)
        given = dict(zip([value.name for value in session.get_inputs()], inputs, strict=True))
        for _ in range(calls + 1):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text())
    beside = overhead(options)
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            key = event["name"].removesuffix(KERNEL), event["args"].get("op_name", "")
            times.setdefault(key, []).append(event["dur"] / 1000)
    found = [
        KernelTime(name, kind, _each(ms, calls, beside.kernel_ms), _node(name, nodes))
        for (name, kind), ms in times.items()
    ]
    return [*found, KernelTime("Run", "call", beside.call_ms, ())]


def _each(ms: list[float], calls: int, cost: float) -> float:
    """Milliseconds a call, without the first; a kernel inside a loop runs several times in each.

    A kernel that takes less than what the profiler adds is counted as a tenth of that: its place among the others is not
    known better.
    """
    rounds = max(1, len(ms) // (calls + 1))
    sums = [sum(ms[i : i + rounds]) for i in range(0, len(ms), rounds)]
    return max(central_mean(sums[1:] or sums) - rounds * cost, rounds * cost / 10)


def _node(name: str, nodes: Mapping[str, str]) -> tuple[str, ...]:
    """The node of a kernel, which is named after the ONNX node or value that it gives, and what was done with it."""
    while name:
        if name in nodes:
            return (nodes[name],) if nodes[name] else ()
        name = name.rpartition("_")[0]
    return ()
