"""Precisions of layers in float that add less noise than the quantization of activations made."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from fxopt.backend import Runner
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.numerics.error_metrics import sqnr


class PrecisionCheck:
    """Whether a runner of a program keeps what the rounding of its activations leaves; of a program in float, all of it."""

    def __init__(self, program: Program) -> None:
        self._wanted = _outputs(program)
        self._limit = sqnr(_outputs(_without_activation_codes(program)), self._wanted)

    def __call__(self, run: Runner, inputs: list[Any]) -> bool:
        """Whether the signal-to-noise ratio of its outputs on the example inputs, flat numpy arrays, is as high."""
        return sqnr(self._wanted, [torch.from_numpy(array) for array in run(inputs)]) >= self._limit


def _without_activation_codes(program: Program) -> Program:
    """A copy in which activations are not rounded to codes."""
    copy = shared_copy(program)
    for code in copy.find("quantized_decomposed.quantize_per_tensor"):
        for user in [user for user in code.users if op_name(user) == "quantized_decomposed.dequantize_per_tensor"]:
            copy.replace(user, code.args[0])  # type: ignore[arg-type]
    copy.module.recompile()
    return copy


def _outputs(program: Program) -> list[Any]:
    outputs = pytree.tree_leaves(program(*program.args, **program.kwargs))
    return [out for out in outputs if isinstance(out, torch.Tensor)]
