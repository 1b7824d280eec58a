"""What each kernel of an OpenVINO model takes, by its performance counters; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxopt.backend.kernel_time import KernelTime
from fxopt.backends.openvino.runtime import compile_model

_WARM = 3
"""Calls before those that count: OpenVINO packs weights and allocates in the first."""


def profile(
    path: Path, chosen: dict[str, Any], inputs: list[Any], calls: int, nodes: Mapping[str, str]
) -> list[KernelTime]:
    """Kernels in the order of a call, with the mean of their times; ``nodes`` are those of the program, by ONNX names.

    OpenVINO's counters are means over all calls since the model was compiled, of which the first takes several times as long:
    what the calls that count took is the difference of two totals.
    """
    compiled = compile_model(path, chosen | {"PERF_COUNT": True})
    made_of = {
        node.get_friendly_name(): node.get_rt_info()["originalLayersNames"].astype(str).split(",")
        for node in compiled.get_runtime_model().get_ordered_ops()
    }
    request = compiled.create_infer_request()
    before = _totals(request, inputs, _WARM, 0)
    after = _totals(request, inputs, calls, _WARM)
    found = []
    for (name, kind), total in after.items():
        took = (total - before.get((name, kind), 0.0)) / calls
        if took <= 0:  # less than a microsecond, in which the counters count
            took = total / (calls + _WARM)
        if took > 0:
            found.append(KernelTime(name, kind, took, _nodes(made_of.get(name, [name]), nodes)))
    return found


def _totals(request: Any, inputs: list[Any], calls: int, before: int) -> dict[tuple[str, str], float]:
    """Milliseconds of each kernel in all calls so far, after ``calls`` more than the ``before`` there were."""
    for _ in range(calls):
        request.infer(dict(enumerate(inputs)))
    return {
        (info.node_name, info.exec_type): info.real_time.total_seconds() * 1000 * (before + calls)
        for info in request.get_profiling_info()
    }


def _nodes(names: list[str], nodes: Mapping[str, str]) -> tuple[str, ...]:
    known = (nodes.get(name.removesuffix("/WithoutBiases"), "") for name in names)
    return tuple(dict.fromkeys(name for name in known if name))
