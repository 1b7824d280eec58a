"""How fast a layer could be: the rates that a backend reaches on large layers, and the bytes and multiply-adds of each.

Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore architectures" (2009).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fxopt.driver.layers import LayerFigures
from fxopt.driver.part import Part
from fxopt.errors import DataError, PassError
from fxopt.pass_manager.context import Context

if TYPE_CHECKING:
    from torch import nn

    from fxopt.ir.program import Program
    from fxopt.workload import Workload

_WIDTH, _ROWS, _DEPTH = 1024, 256, 4
"""A chain of products of [256, 1024] by [1024, 1024], whose weights are read once for 256 rows."""
_CHANNELS, _SIDE = 128, 28
"""A chain of 3x3 convolutions of 128 channels over 28 x 28 positions."""
_LONG = 4096
"""A product of one row by [4096, 4096], which reads 64 MB of weights for one multiply-add each."""


class Roof(Part):
    """The highest rates that a backend reached on a machine, with the threads of an artifact."""

    macs_per_second: dict[str, float]
    """Multiply-adds a second by precision: ``float32``, of matrix products, and ``int8`` where the backend computes in it, of
    products, convolutions or a layer of the artifact, whichever is fastest. Float convolutions are not among them, as
    Winograd's algorithm takes fewer multiplications than are counted."""
    bytes_per_second: float
    """Bytes a second of weights that no cache holds."""

    def ms(self, layer: LayerFigures, batch: int = 1) -> float:
        """Milliseconds that a layer takes at these rates: the longer of computing, and of reading and writing.

        A precision that was not measured, such as float16, has the rate of float32. A layer may take less: by Winograd's
        algorithm, or where what it reads is still in a cache.
        """
        name = layer.precision if layer.precision in self.macs_per_second else "float32"
        computing = layer.macs * batch / self.macs_per_second[name]
        moving = (layer.weight_bytes + layer.value_bytes * batch) / self.bytes_per_second
        return 1000 * max(computing, moving)


def measure_roof(context: Context, *, integers: bool, fastest: float = 0.0) -> Roof:
    """Build large layers by the context's backend for its target, and time them there side by side.

    With ``integers``, in int8 too; ``fastest`` is the rate that a layer in int8 is known to reach, multiply-adds a second.
    Raises UsageError for a target that nothing can be timed on, BackendError where a layer cannot be built, DeviceError.
    """
    from dataclasses import replace

    import torch

    from fxopt.driver.time_build import built_times
    from fxopt.ir.cost import cost

    with torch.random.fork_rng(devices=[]):  # the caller's generator is not that of these weights
        products, convolutions, long_row = _products(), _convolutions(), _long_row()
    floats = {"float32": products.capture(), "bytes": long_row.capture()}
    quantized = {str(i): _quantized(w, context) for i, w in enumerate((products, convolutions)) if integers}
    programs = floats | {name: program for name, program in quantized.items() if program is not None}
    times = built_times(programs, replace(context, workload=None), "the roofline", blocks=7)
    seconds = {name: min(timing.blocks_ms) / 1000 for name, timing in times.items()}
    rates = {name: cost(program).macs / seconds[name] for name, program in programs.items()}
    in_integers = [rates[name] for name in quantized if name in rates]
    return Roof(
        macs_per_second={"float32": rates["float32"]} | ({"int8": max(*in_integers, fastest)} if in_integers else {}),
        bytes_per_second=cost(floats["bytes"]).bytes / seconds["bytes"],
    )


def _quantized(workload: Workload, context: Context) -> Program | None:
    """Its program in int8 as the backend's kernels want it; None where there are none for it."""
    from fxopt.pass_manager.pipeline import Pipeline

    where: dict[str, Any] = {"target": context.target, "backend": context.backend, "workload": workload}
    try:
        return Pipeline.parse("quantize").run(workload.capture(), watchers=(), **where).program
    except (PassError, DataError):
        return None


def _products() -> Workload:
    from torch import nn

    layers = [part for _ in range(_DEPTH) for part in (nn.Linear(_WIDTH, _WIDTH), nn.ReLU())]
    return _workload("products", nn.Sequential(*layers), (_ROWS, _WIDTH))


def _convolutions() -> Workload:
    from torch import nn

    layers = [part for _ in range(_DEPTH) for part in (nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), nn.ReLU())]
    return _workload("convolutions", nn.Sequential(*layers), (_CHANNELS, _SIDE, _SIDE))


def _long_row() -> Workload:
    from torch import nn

    return _workload("a long row", nn.Linear(_LONG, _LONG), (_LONG,))


def _workload(name: str, module: nn.Module, shape: tuple[int, ...]) -> Workload:
    """Random weights and inputs: what they are takes no part in the time."""
    import numpy as np
    import torch

    from fxopt.frontend.capture import capture
    from fxopt.workload import Workload
    from fxopt.workload.recorded import RecordedInputs

    example = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    program: Program = capture(module.eval(), (example,))
    arrays = {"": np.random.default_rng(0).standard_normal((4, *shape), np.float32)}
    return Workload(
        name=name,
        model=lambda: program.module,
        inputs=lambda: ((example,), {}),
        data=RecordedInputs(arrays, program),
        program=program.copy,
    )
