"""Precision and threads chosen by measurement."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from fxopt.backend import Runner
from fxopt.backends.onnx.runtime import usable_cores
from fxopt.backends.openvino.convert import convert
from fxopt.backends.openvino.runtime import MODEL_FILE, make_runner
from fxopt.compare import sqnr
from fxopt.measure import fastest
from fxopt.text import op_name

if TYPE_CHECKING:
    from fxopt.backends.openvino.backend import Openvino
    from fxopt.program import Program


def tune(backend: Openvino, program: Program, seconds: float) -> Openvino:
    """Measure candidates interleaved for about ``seconds`` and return the backend with the best.

    The present options stay unless others win clearly. Another precision than the present one and f32 is a candidate only
    where it adds less noise than the quantization of activations made; so a program in float keeps its precision.
    """
    arrays = [v.numpy() for v in pytree.tree_leaves((program.args, program.kwargs)) if isinstance(v, torch.Tensor)]
    want = _outputs(program)
    limit = sqnr(_outputs(_without_activation_codes(program)), want)
    candidates: dict[str, Openvino] = {}
    runs: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        path = Path(folder) / MODEL_FILE
        convert(program, path)
        for candidate in _candidates(backend):
            run = make_runner(path, candidate.properties())
            precise = candidate.precision in (backend.precision, "f32")
            if precise or sqnr(want, [torch.from_numpy(array) for array in run(arrays)]) >= limit:
                candidates[str(candidate)] = candidate
                runs[str(candidate)] = _call(run, arrays)
        return candidates[fastest(runs, seconds)]


def _candidates(backend: Openvino) -> list[Openvino]:
    """The present options first. What ``auto`` chooses is f32 or bf16 as well, but not the same on every machine."""
    precisions = dict.fromkeys((backend.precision, "f32", "bf16"))
    threads = dict.fromkeys((backend.threads, 1, usable_cores()))
    return [dataclasses.replace(backend, threads=t, precision=p) for p in precisions for t in threads]


def _without_activation_codes(program: Program) -> Program:
    """A copy in which activations are not rounded to codes."""
    copy = program.copy()
    for code in copy.find("quantized_decomposed.quantize_per_tensor"):
        for user in [user for user in code.users if op_name(user) == "quantized_decomposed.dequantize_per_tensor"]:
            copy.replace(user, code.args[0])  # type: ignore[arg-type]
    copy.module.recompile()
    return copy


def _outputs(program: Program) -> list[Any]:
    outputs = pytree.tree_leaves(program(*program.args, **program.kwargs))
    return [out for out in outputs if isinstance(out, torch.Tensor)]


def _call(run: Runner, arrays: list[Any]) -> Callable[[], object]:
    return lambda: run(arrays)
