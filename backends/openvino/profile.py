"""What each kernel of an OpenVINO model takes, by its performance counters; nothing here needs torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxopt.backend.kernel_time import KernelTime
from fxopt.backends.openvino.runtime import compile_model


def profile(
    path: Path, chosen: dict[str, Any], inputs: list[Any], calls: int, nodes: Mapping[str, str]
) -> list[KernelTime]:
    """Kernels in the order of a call, with the median of their times; ``nodes`` are those of the program, by ONNX names."""
    compiled = compile_model(path, chosen | {"PERF_COUNT": True})
    made_of = {
        node.get_friendly_name(): node.get_rt_info()["originalLayersNames"].astype(str).split(",")
        for node in compiled.get_runtime_model().get_ordered_ops()
    }
    request = compiled.create_infer_request()
    times: dict[tuple[str, str], list[float]] = {}
    for call in range(calls + 1):
        request.infer(dict(enumerate(inputs)))
        for info in request.get_profiling_info():
            took = info.real_time.total_seconds() * 1000
            if call and took:
                times.setdefault((info.node_name, info.exec_type), []).append(took)
    return [
        KernelTime(name, kind, statistics.median(ms) * len(ms) / calls, _nodes(made_of.get(name, [name]), nodes))
        for (name, kind), ms in times.items()
    ]


def _nodes(names: list[str], nodes: Mapping[str, str]) -> tuple[str, ...]:
    known = (nodes.get(name.removesuffix("/WithoutBiases"), "") for name in names)
    return tuple(dict.fromkeys(name for name in known if name))
