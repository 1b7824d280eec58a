"""Whether an artifact gives the numbers of the program that it was built of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from fxopt.agreement import copied
from fxopt.artifact import Artifact
from fxopt.compare import relative_error, sqnr
from fxopt.errors import BackendError
from fxopt.facts import plain
from fxopt.ops import find_quantized
from fxopt.precision import coarsest
from fxopt.probes import probe_inputs
from fxopt.program import Program
from fxopt.text import type_text

_AGREEMENT = 1e-3
"""Largest relative difference between a program in float32 and what a backend built of it."""


class Fidelity:
    """What ``program`` gives on the example inputs and on random ones, for artifacts to be held against.

    ``captured`` is the program before any pass: an artifact of a quantized program may add no more noise than
    quantization itself made. A program in float must be met to 1e-3 relative, or the root of its largest epsilon where that
    is more, as in half precision, whose roundings a backend may leave out; where ``noise_db`` is given, a signal-to-noise
    ratio of that many dB is enough, which is for runtimes that compute in fewer bits. ``seconds`` is what the program took.
    """

    def __init__(self, captured: Program, program: Program, noise_db: float | None = None) -> None:
        self._program = program
        self._probes = probe_inputs(program)
        begun = time.perf_counter()
        self._want = [_outputs(program, program, probe) for probe in self._probes]
        self.seconds = time.perf_counter() - begun
        self.noise_db, self._quantized = noise_db, is_quantized(program)
        self._room = max(_AGREEMENT, coarsest(program) ** 0.5)
        if self._quantized:
            self.noise_db = self.sqnr_to(captured)

    def sqnr_to(self, other: Program) -> float:
        """Least SQNR in dB of the program against another of the same interface, on the same inputs."""
        return min(
            sqnr(_outputs(other, self._program, probe), want)
            for probe, want in zip(self._probes, self._want, strict=True)
        )

    def check(self, built: Artifact) -> dict[str, Any]:
        """How an artifact agrees: ``relative_error``, the largest over the outputs, and ``sqnr_db``, the least in dB.

        Raises BackendError where it gives something else.
        """
        errors, ratios = [0.0], []
        for probe, want in zip(self._probes, self._want, strict=True):
            got = _outputs(built, self._program, probe)
            for i, (a, b) in enumerate(zip(want, got, strict=True)):
                if _type(a) != _type(b):
                    raise BackendError(f"the backend built a model whose output {i} is {_type(b)}, expected {_type(a)}")
            errors += [relative_error(a, b) for a, b in zip(want, got, strict=True)]
            ratios.append(sqnr(want, got))
        close = not self._quantized and max(errors) <= self._room
        if not close and (self.noise_db is None or min(ratios) < self.noise_db):
            raise BackendError(
                f"what {built.manifest['backend']} built gives other numbers than the program: off by "
                f"{max(errors):.2g} relative, {min(ratios):.1f} dB; allowed {self._limit()}\n  an op is exported or run "
                "wrongly; leave passes or parts out to find it, or try an option of the backend such as "
                "onnx(optimization_level='basic')"
            )
        return {"relative_error": plain(max(errors)), "sqnr_db": plain(min(ratios))}

    def _limit(self) -> str:
        if self._quantized:
            return f"{self.noise_db:.1f} dB, as quantization itself"
        return f"{self._room:.2g} relative" + ("" if self.noise_db is None else f" or {self.noise_db:.1f} dB")


def is_quantized(program: Program) -> bool:
    """Whether any op of the program quantizes or dequantizes."""
    return find_quantized(program.graph) is not None


def _outputs(run: Callable[..., Any], program: Program, probe: list[Any]) -> list[Any]:
    """Flat outputs as tensors, from copies of flat inputs: a model may write into them."""
    leaves = [
        v.detach().numpy() if isinstance(run, Artifact) and isinstance(v, torch.Tensor) else v for v in copied(probe)
    ]
    args, kwargs = pytree.tree_unflatten(leaves, pytree.tree_structure((program.args, program.kwargs)))
    return [
        torch.from_numpy(np.array(v)) if isinstance(v, np.ndarray) else v
        for v in pytree.tree_leaves(run(*args, **kwargs))
    ]


def _type(value: Any) -> str:
    return type_text(value) if isinstance(value, torch.Tensor) else repr(value)
