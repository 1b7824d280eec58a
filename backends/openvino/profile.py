"""What each kernel of an OpenVINO model takes, by its performance counters; nothing here needs torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxopt.backend.kernel_time import KernelTime
from fxopt.backends.openvino.runtime import compile_model

_WARM = 3
"""Calls before those that count: OpenVINO packs weights and allocates in the first."""
_CUT_MS = 0.0005
"""What a counter loses by cutting off at whole microseconds, on average."""


def profile(
    path: Path, chosen: dict[str, Any], inputs: list[Any], calls: int, nodes: Mapping[str, str]
) -> list[KernelTime]:
    """Kernels in the order of a call with the mean of their times, and the call itself; ``nodes`` are those of the program,
    by ONNX names.

    OpenVINO's counters are means over all calls since the model was compiled, of which the first takes several times as long:
    what the calls that count took is the difference of two totals. The call's own row is what the clock shows beyond the
    kernels in those same calls: where the batch is dynamic, OpenVINO infers the shapes of all nodes before it runs them,
    which no counter covers.
    """
    compiled = compile_model(path, chosen | {"PERF_COUNT": True})
    made_of = {
        node.get_friendly_name(): node.get_rt_info()["originalLayersNames"].astype(str).split(",")
        for node in compiled.get_runtime_model().get_ordered_ops()
    }
    request = compiled.create_infer_request()
    _call(request, inputs, _WARM)
    before = _totals(request, _WARM)
    clocked = _call(request, inputs, calls)
    found = []
    for (name, kind), total in _totals(request, _WARM + calls).items():
        took = (total - before.get((name, kind), 0.0)) / calls
        if took > 0:
            found.append(KernelTime(name, kind, took, _nodes(made_of.get(name, [name]), nodes)))
    return [*found, KernelTime("infer", "call", max(0.0, clocked - sum(kernel.ms for kernel in found)))]


def _call(request: Any, inputs: list[Any], calls: int) -> float:
    """Call so often; the mean of the calls in milliseconds."""
    start = time.perf_counter()
    for _ in range(calls):
        request.infer(dict(enumerate(inputs)), share_inputs=True)
    return (time.perf_counter() - start) * 1000 / calls


def _totals(request: Any, calls: int) -> dict[tuple[str, str], float]:
    """Milliseconds of each kernel in all ``calls`` so far, but for those too short to count.

    A counter adds whole microseconds at each call, and its mean is one again, so that twice half of one is lost.
    """
    means = {
        (info.node_name, info.exec_type): info.real_time.total_seconds() * 1000 for info in request.get_profiling_info()
    }
    return {key: (mean + 2 * _CUT_MS) * calls for key, mean in means.items() if mean > 0}


def _nodes(names: list[str], nodes: Mapping[str, str]) -> tuple[str, ...]:
    known = (nodes.get(name.removesuffix("/WithoutBiases"), "") for name in names)
    return tuple(dict.fromkeys(name for name in known if name))
