"""Whether an artifact computes the same values as the program that it was built from."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from fxopt.backend import Backend, find_backend
from fxopt.driver.check_inputs import check_inputs
from fxopt.driver.int8_check import ValueCheck, check_values
from fxopt.driver.intermediate_values import Exposed, quantized_values
from fxopt.driver.report import Agreement, QuantizedValues
from fxopt.driver.tie_floor import tie_floor
from fxopt.errors import BackendError, DisagreementError, UsageError, last_line
from fxopt.ir.op_table import find_quantized
from fxopt.ir.printer import type_text
from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import relative_error, sqnr
from fxopt.numerics.execute import run
from fxopt.numerics.float64 import coarsest, to_float64
from fxopt.numerics.module_state import copied
from fxopt.runtime.artifact import Artifact
from fxopt.workload import Data

_AGREEMENT = 1e-3
"""Largest relative difference between a program in float32 and its artifact."""
_QUANTIZED_DB, _BELOW_FLOOR_DB = 30.0, 6.0
"""Least SQNR of an artifact against its quantized program, or how far below the rounding floor it may be, if that is less."""
_CLEAR_DB = 40.0
"""SQNR from which an artifact is not built again only to check its values one by one."""


class Fidelity:
    """Outputs of ``program`` to compare artifacts with: on the example inputs and on random ones, or of a quantized program
    on ``data``, where there are some.

    A float artifact must agree to 1e-3 relative, or the root of the program's largest epsilon where that is more, as in
    half precision, whose roundings a backend may skip. A quantized one must agree to 30 dB, or to 6 dB below the rounding
    floor where that is less: the SQNR of two float evaluations of the same quantized graph, or of the graph with as many
    values one step off as the kernels have (:mod:`fxopt.driver.tie_floor`), as a deep network amplifies a single tie.
    Where ``noise_db`` is given, a signal-to-noise ratio of that many dB is enough, for runtimes that compute in fewer
    bits. ``seconds`` is the time that the program took.
    """

    def __init__(self, program: Program, noise_db: float | None = None, data: Data | None = None) -> None:
        self._program = program
        self._probes = check_inputs(program, data)
        begun = time.perf_counter()
        self._want = [_outputs(program, program, probe) for probe in self._probes]
        self.seconds = time.perf_counter() - begun
        self._noise_db, self._quantized = noise_db, is_quantized(program)
        self._tolerance = max(_AGREEMENT, coarsest(program) ** 0.5)

    def sqnr_to(self, other: Program) -> float:
        """Least SQNR in dB of the program against another of the same interface, on the same inputs."""
        return min(
            sqnr(_outputs(other, self._program, probe), want)
            for probe, want in zip(self._probes, self._want, strict=True)
        )

    @functools.cached_property
    def _wide(self) -> Program:
        """The program in float64."""
        return to_float64(self._program)

    @functools.cached_property
    def floor_db(self) -> float:
        """The rounding floor: least SQNR in dB of the program in float32 against itself in float64; inf without one."""
        try:
            wide = [run(self._wide, probe, wide=True).outputs for probe in self._probes]
        except RuntimeError:  # see _check_values
            return math.inf
        return min(sqnr(outputs, want) for outputs, want in zip(wide, self._want, strict=True))

    def check(self, built: Artifact, expose: Callable[[], Exposed] | None = None) -> Agreement:
        """How well an artifact agrees: ``relative_error``, the largest over the outputs, and ``sqnr_db``, the least in dB.

        With ``expose`` each quantized value is also compared with the program on its own inputs, see
        :mod:`fxopt.driver.int8_check`; ``values`` then has the number of elements, how many differ, and by how many steps at
        most. Raises BackendError where the artifact disagrees.
        """
        errors, ratios = [0.0], []
        for probe, want in zip(self._probes, self._want, strict=True):
            got = self._run(built, probe)
            for i, (a, b) in enumerate(zip(want, got, strict=True)):
                if _type(a) != _type(b):
                    raise BackendError(f"the backend built a model whose output {i} is {_type(b)}, expected {_type(a)}")
            errors += [relative_error(a, b) for a, b in zip(want, got, strict=True)]
            ratios.append(sqnr(want, got))
        error, ratio = max(errors), min(ratios)
        values: QuantizedValues | None = None
        checks: list[list[ValueCheck]] = []
        who = built.manifest.backend
        if self._quantized:
            backend = find_backend(who)
            cheap = type(backend).expose is not Backend.expose
            if expose is not None and quantized_values(self._program) and (cheap or ratio < _CLEAR_DB):
                values, checks = self._check_values(backend, expose())
            if ratio < _QUANTIZED_DB:
                self._check_noise(who, ratio, checks)
        elif error > self._tolerance and (self._noise_db is None or ratio < self._noise_db):
            limit = f"{self._tolerance:.2g} relative" + (
                "" if self._noise_db is None else f" or {self._noise_db:.1f} dB"
            )
            raise DisagreementError(
                f"what {who} built gives other numbers than the program: off by {error:.2g} relative, "
                f"{ratio:.1f} dB; allowed {limit}",
                way_out=_WAY_OUT,
            )
        return Agreement(relative_error=error, sqnr_db=ratio, values=values)

    def _run(self, built: Artifact, probe: list[Any]) -> list[Any]:
        """Outputs of an artifact on inputs that the program takes; the same sizes are valid for it."""
        try:
            return _outputs(built, self._program, probe)
        except UsageError as error:
            shapes = ", ".join(str(list(v.shape)) for v in probe if isinstance(v, torch.Tensor))
            raise BackendError(
                f"what {built.manifest.backend} built does not run on inputs of {shapes}, which the program takes: {error}",
                way_out="a size of the example was built in: capture with fixed sizes (dynamic=None), or take another backend",
            ) from error

    def _check_values(self, backend: Backend, exposed: Exposed) -> tuple[QuantizedValues, list[list[ValueCheck]]]:
        """The totals, and the check of each value for each of the inputs. Raises DisagreementError."""
        try:
            found = [self._values(exposed, probe) for probe in self._probes]
        except RuntimeError as error:  # the model's code fixes a dtype, so that the float64 twin does not run
            return QuantizedValues(not_checked=f"the program does not run in float64: {last_line(error)}"), []
        checks = [check for of_probe in found for check in of_probe]
        # values between integers may have fewer bits than float32 if an option says so; integers may not
        bounded = [check for check in checks if check.exact or not backend.rounds_floats]
        wrong = {check.node: check for check in bounded if check.wrong(self._tolerance)}
        if wrong:
            shown = [f"\n    {self._program.describe(node)}\n      {check}" for node, check in list(wrong.items())[:8]]
            more = [f"\n    … and {len(wrong) - 8} more"] * (len(wrong) > 8)
            raise DisagreementError(
                f"what {backend} built computes {len(wrong)} layer(s) otherwise than the quantized program says, each on its "
                f"own inputs:{''.join(shown + more)}",
                way_out="the runtime's kernels for these, or how they were lowered, are wrong here: leave them in float, "
                "quantize(keep_float=(…,)), or take another backend",
            )
        values = QuantizedValues(
            codes=sum(check.numbers for check in checks),
            off=sum(check.near + check.far for check in checks),
            most_steps=max((check.worst for check in checks), default=0),
        )
        return values, found

    def _values(self, exposed: Exposed, probe: list[Any]) -> list[ValueCheck]:
        args, kwargs = _arguments(self._program, probe, as_numpy=True)
        outputs, codes = exposed(*args, **kwargs)
        return check_values(self._program, self._wide, copied(probe), outputs, codes)

    def _check_noise(self, who: str, ratio: float, checks: list[list[ValueCheck]]) -> None:
        """Raise DisagreementError where ``ratio`` is less than rounding explains; ``checks`` are of values that passed."""
        limits = [_QUANTIZED_DB, self.floor_db - _BELOW_FLOOR_DB, *([] if self._noise_db is None else [self._noise_db])]
        reasons = f"30, or 6 below the {self.floor_db:.1f} that two evaluations of it in float keep"
        if ratio < min(limits) and checks:
            ties = min(tie_floor(self._wide, probe, found) for probe, found in zip(self._probes, checks, strict=True))
            limits.append(ties - _BELOW_FLOOR_DB)
            reasons += f", or 6 below the {ties:.1f} that it keeps with as many codes a step off"
        if ratio < min(limits):
            raise DisagreementError(
                f"what {who} built keeps {ratio:.1f} dB of the quantized program; allowed {min(limits):.1f} dB ({reasons})",
                way_out="each quantized value is right on its own inputs, and small differences add up: leave delicate layers in "
                "float, as fxopt explain quant shows them"
                if checks
                else _WAY_OUT,
            )


_WAY_OUT = (
    "an op is lowered or run wrongly; leave passes or parts out to find it, or try an option of the backend such as "
    "onnx(optimization_level='basic')"
)


def is_quantized(program: Program) -> bool:
    """Whether any op of the program quantizes or dequantizes."""
    return find_quantized(program.graph) is not None


def _outputs(model: Callable[..., Any], program: Program, probe: list[Any]) -> list[Any]:
    """Flat outputs as tensors, for copies of flat inputs: a model may write into them."""
    args, kwargs = _arguments(program, probe, as_numpy=isinstance(model, Artifact))
    return [
        torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v
        for v in pytree.tree_leaves(model(*args, **kwargs))
    ]


def _arguments(program: Program, probe: list[Any], *, as_numpy: bool) -> tuple[Any, Any]:
    """Copies of flat inputs, nested as the program takes them."""
    leaves = [v.detach().numpy() if as_numpy and isinstance(v, torch.Tensor) else v for v in copied(probe)]
    args, kwargs = pytree.tree_unflatten(leaves, pytree.tree_structure((program.args, program.kwargs)))
    return args, kwargs


def _type(value: Any) -> str:
    return type_text(value) if isinstance(value, torch.Tensor) else repr(value)
