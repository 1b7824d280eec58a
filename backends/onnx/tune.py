"""Session options chosen by measurement: threads, optimization level, memory arena."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils import _pytree as pytree

from fxopt.backends.onnx.export import export
from fxopt.backends.onnx.runtime import MODEL_FILE, make_runner, usable_cores
from fxopt.measure import PAUSE, interleave

if TYPE_CHECKING:
    from fxopt.backends.onnx.backend import Onnx
    from fxopt.program import Program
    from fxopt.target import Target

_BLOCK_MS = 40.0


def tune(backend: Onnx, program: Program, target: Target, seconds: float) -> Onnx:
    """Measure candidates interleaved for about ``seconds`` and return the backend with the best.

    A candidate replaces the present options only if it beats them in three rounds of four: differences within the noise
    keep the options as they are.
    """
    candidates = [backend]
    for threads in sorted({1, usable_cores()}):
        for level in ("all", "extended"):
            for arena in (True, False):
                candidate = dataclasses.replace(backend, threads=threads, optimization_level=level, arena=arena)
                candidates.append(candidate)
    arrays = [v.numpy() for v in pytree.tree_leaves((program.args, program.kwargs)) if isinstance(v, torch.Tensor)]
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        path = Path(folder) / MODEL_FILE
        export(program, backend.opset, path)
        runs: dict[str, Callable[[], object]] = {}
        for candidate in candidates:
            run = make_runner(path, candidate.threads, candidate.optimization_level, candidate.arena)
            runs[str(candidate)] = lambda run=run: run(arrays)  # type: ignore[misc]
        blocks = int(seconds / (len(runs) * (_BLOCK_MS / 1000 + PAUSE)))
        timings = interleave(runs, blocks=max(3, blocks), block_ms=_BLOCK_MS)
    best = min(candidates, key=lambda c: timings[str(c)].ms.median)
    return best if timings[str(best)].ratio(timings[str(backend)]).high < 1 else backend
