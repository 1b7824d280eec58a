"""What the error of one layer alone does to the outputs, as if all other layers were in float."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from fxopt.ir.program import Program
from fxopt.numerics.error_sums import ErrorSums
from fxopt.numerics.execute import started, untouched


def alone_db(program: Program, inputs: list[Any], errors: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """SQNR in dB of the worst output of the float ``program`` for flat ``inputs``, with one error added at a time.

    ``errors`` have the error of a value that its own layer makes, by the name of the value's node and of its shape. One run of
    the program each; inf where an error is zero, or reaches no output.
    """
    wanted = _outputs(program, inputs)
    return {
        name: _worst_db(wanted, _outputs(program, inputs, name, error)) if error.any() else math.inf
        for name, error in errors.items()
    }


def _outputs(program: Program, inputs: list[Any], name: str = "", error: torch.Tensor | None = None) -> list[Any]:
    with torch.no_grad(), untouched(program):
        disturbed = started(_Disturbed(program.module, name, error), inputs)
        flat = disturbed.run(*inputs, enable_io_processing=False)
    return [value.clone() if isinstance(value, torch.Tensor) else value for value in flat]


def _worst_db(wanted: list[Any], got: list[Any]) -> float:
    found = []
    for want, value in zip(wanted, got, strict=True):
        if isinstance(want, torch.Tensor) and want.is_floating_point():
            sums = ErrorSums()
            sums.add(want, value)
            found.append(sums.sqnr_db)
    return min(found, default=math.inf)


class _Disturbed(fx.Interpreter):
    """Adds an error to one value."""

    def __init__(self, module: fx.GraphModule, name: str, error: torch.Tensor | None) -> None:
        super().__init__(module)
        self._name, self._error = name, error

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        return value + self._error if self._error is not None and n.name == self._name else value
