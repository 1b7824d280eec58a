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
from fxopt.backends.onnx.kernels import has_float16
from fxopt.backends.onnx.runtime import MODEL_FILE, make_runner, usable_cores
from fxopt.measure import fastest

if TYPE_CHECKING:
    from fxopt.backends.onnx.backend import Onnx
    from fxopt.program import Program
    from fxopt.target import Target


def tune(backend: Onnx, program: Program, target: Target, seconds: float) -> Onnx:
    """Measure candidates interleaved for about ``seconds`` and return the backend with the best.

    The present options stay unless others win clearly.
    """
    candidates = {str(backend): backend}
    for threads in sorted({1, usable_cores()}):
        for level in ("all", "extended"):
            for arena in (True, False):
                candidate = dataclasses.replace(backend, threads=threads, optimization_level=level, arena=arena)
                candidates[str(candidate)] = candidate
    arrays = [v.numpy() for v in pytree.tree_leaves((program.args, program.kwargs)) if isinstance(v, torch.Tensor)]
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        path = Path(folder) / MODEL_FILE
        export(program, backend.opset, path)
        float16 = has_float16(path)
        runs: dict[str, Callable[[], object]] = {}
        for name, candidate in candidates.items():
            run = make_runner(path, candidate.threads, candidate.optimization_level, candidate.arena, float16=float16)
            runs[name] = lambda run=run: run(arrays)  # type: ignore[misc]
        return candidates[fastest(runs, seconds)]
