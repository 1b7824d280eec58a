"""What ONNX Runtime's profiler adds to the time of a kernel, and a call to that of all; nothing here needs torch or onnx."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fxopt.support.scratch import scratch_folder

KERNEL = "_kernel_time"
_SHORT, _LONG = 16, 208
"""Kernels of the two chains whose difference tells what one of them takes without the profiler."""
_CALLS = 40
_FLOAT, _SHAPE = 1, (1, 1, 1, 1)


class Overhead(NamedTuple):
    """Milliseconds that the profiler adds to a kernel, and that a call takes besides its kernels."""

    kernel_ms: float
    call_ms: float


def overhead(options: Any) -> Overhead:
    """Measured with the threads of ``options``, which have the profiler enabled.

    ONNX Runtime stops a kernel's clock after it wrote down the shapes of its operands and what its threads did: some
    microseconds, which are much beside the small kernels of an integer transformer. They are what a kernel that does
    nothing takes by the profiler, less what it takes by the clock in a chain of them. What a call takes is what such a chain
    takes less its kernels.
    """
    import onnxruntime as ort

    level = options.graph_optimization_level
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        profiled = _profiled(options)
        options.enable_profiling = False
        short, long = _clocked(_SHORT, options), _clocked(_LONG, options)
    finally:
        options.enable_profiling, options.graph_optimization_level = True, level
    clocked = (long - short) / (_LONG - _SHORT)
    return Overhead(max(0.0, profiled - clocked), max(0.0, short - _SHORT * clocked))


def central_mean(values: list[float]) -> float:
    """The mean of the middle half: robust as a median, and finer than the whole microseconds in which a profiler counts."""
    ordered = np.sort(np.asarray(values))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def _profiled(options: Any) -> float:
    """Milliseconds of a kernel of the long chain, by the profiler."""
    with scratch_folder() as folder:
        options.profile_file_prefix = str(folder / "cost")
        session = _run(_LONG, options)[0]
        events = json.loads(Path(session.end_profiling()).read_text())
    return central_mean([event["dur"] / 1000 for event in events if event["name"].endswith(KERNEL)])


def _clocked(length: int, options: Any) -> float:
    """Milliseconds of a call of a chain, by the clock."""
    return central_mean(_run(length, options)[1])


def _run(length: int, options: Any) -> tuple[Any, list[float]]:
    """A session of a chain, and the milliseconds of its calls."""
    import onnxruntime as ort

    session = ort.InferenceSession(chain(length), options, ["CPUExecutionProvider"])
    given, ms = {"0": np.ones(_SHAPE, np.float32)}, []
    for _ in range(_CALLS):
        start = time.perf_counter()
        session.run(None, given)
        ms.append((time.perf_counter() - start) * 1000)
    return session, ms


def chain(length: int) -> bytes:
    """An ONNX model of ``length`` negations of one number, one after another, in the wire format of onnx.proto."""
    nodes = [
        _field(1, _field(1, _text(i)) + _field(2, _text(i + 1)) + _field(3, b"n" + _text(i)) + _field(4, b"Neg"))
        for i in range(length)
    ]
    dims = b"".join(_field(1, _number(1, dim)) for dim in _SHAPE)
    kind = _field(2, _field(1, _number(1, _FLOAT) + _field(2, dims)))
    ends = _field(11, _field(1, _text(0)) + kind) + _field(12, _field(1, _text(length)) + kind)
    graph = b"".join(nodes) + _field(2, b"chain") + ends
    return _number(1, 8) + _field(7, graph) + _field(8, _number(2, 13))


def _text(number: int) -> bytes:
    return str(number).encode()


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
