"""What each kernel of a ``.pte`` file takes, by ExecuTorch's own trace; reading that needs its developer tools."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fxopt.backend.kernel_time import KernelTime
from fxopt.backends.executorch.runtime import Model, quiet
from fxopt.errors import BackendError
from fxopt.support.scratch import scratch_folder

_DELEGATE, _NATIVE = "DELEGATE_CALL", "native_call_"
_LAYERS = ("aten.convolution", "aten.linear")
_OF_KIND = {
    "Convolution": _LAYERS, "Deconvolution": _LAYERS, "Fully Connected": _LAYERS,
    "Batch Matrix Multiply": ("aten.bmm",), "Add": ("aten.add.Tensor",), "Subtract": ("aten.sub.Tensor",),
    "Multiply": ("aten.mul.Tensor",), "Max Pooling": ("aten.max_pool2d",), "Average Pooling": ("aten.avg_pool2d",),
    "Mean": ("aten.mean.dim",), "Softmax": ("aten._softmax",), "Sigmoid": ("aten.sigmoid",), "GELU": ("aten.gelu",),
}  # fmt: skip
"""Of XNNPACK's kinds of kernels those that compute one op each, in the order of these."""


@dataclass
class _Call:
    """One instruction of a run: its own time, and in a part of XNNPACK's the kernels with theirs, in milliseconds."""

    name: str
    ms: float = 0.0
    kernels: list[tuple[str, float]] = field(default_factory=list)


def profile(path: Path, threads: int | None, inputs: list[Any], calls: int, nodes: Sequence[Any]) -> list[KernelTime]:
    """Kernels in the order of a call, with the median of their times; ``nodes`` are those that the build noted.

    XNNPACK tells kinds of kernels and no nodes: kernels are held against the ops of a part in order, where their number is
    that of the ops, as it is for layers. Raises BackendError without the tools that read a trace.
    """
    model = Model(path, threads, traced=True)
    for _ in range(calls + 1):
        model(inputs)
    with scratch_folder() as folder:
        model.program.write_etdump_result_to_file(str(folder / "trace"), str(folder / "values"))
        runs = list(_runs((folder / "trace").read_bytes()))[1:]
    found = []
    for i, call in enumerate(runs[0]):
        here = nodes[i] if len(nodes) == len(runs[0]) else []
        same = [run[i] for run in runs]
        if not call.kernels:
            names = tuple(name for _, name in here if name)
            found.append(KernelTime(f"{call.name} {i}", call.name, statistics.median(one.ms for one in same), names))
            continue
        for k, (kernel, of) in enumerate(zip(call.kernels, _nodes_of([n for n, _ in call.kernels], here), strict=True)):
            ms = statistics.median(one.kernels[k][1] for one in same)
            found.append(KernelTime(f"{kernel[0]} in {i}", kernel[0].rpartition(" #")[0], ms, of))
    return found


def _nodes_of(kernels: Sequence[str], ops: Sequence[Any]) -> list[tuple[str, ...]]:
    """The nodes of each kernel of a part, whose ``ops`` are pairs of an op and a node."""
    found: list[tuple[str, ...]] = [()] * len(kernels)
    for names in dict.fromkeys(_OF_KIND.values()):
        places = [i for i, kernel in enumerate(kernels) if _OF_KIND.get(kernel.partition(" (")[0]) == names]
        nodes = [node for op, node in ops if op in names]
        if len(places) == len(nodes):
            for place, node in zip(places, nodes, strict=True):
                found[place] = (node,) if node else ()
    return found


def _runs(trace: bytes) -> Iterator[list[_Call]]:
    """The calls of each run that a trace has, which compute something."""
    try:
        with quiet():
            from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc
    except ImportError as error:
        raise BackendError(
            f"ExecuTorch's developer tools, which read what its runtime notes of kernels, cannot be imported: {error}",
            way_out="install ExecuTorch with all that it asks for: pip install 'fxopt[executorch]'",
        ) from error
    for run in deserialize_from_etdump_flatcc(trace).run_data:
        if run.name != "Execute":
            continue
        calls: dict[int, _Call] = {}
        pending: list[tuple[str, float]] = []
        for event in (event.profile_event for event in run.events if event.profile_event):
            ms = (event.end_time - event.start_time) / 1e6
            if event.delegate_debug_id_str:
                pending.append((event.delegate_debug_id_str, ms))
            elif event.name == _DELEGATE:
                calls[event.instruction_id] = _Call("XNNPACK", ms, pending)
                pending = []
            elif (event.name or "").startswith(_NATIVE):
                calls[event.instruction_id] = _Call(event.name.removeprefix(_NATIVE), ms)
        yield [calls[number] for number in sorted(calls)]
