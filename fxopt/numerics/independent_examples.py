"""Whether the examples of a batch have no say in each other's results."""

from __future__ import annotations

import torch
from torch import fx

from fxopt.ir.program import Program
from fxopt.numerics.error_metrics import sqnr
from fxopt.numerics.execute import run
from fxopt.numerics.probe_inputs import random_batch

_ALIKE_DB = 20.0
"""SQNR of a batch against its parts; rounding to codes may fall otherwise in these, a mixture is another number."""


def has_independent_examples(program: Program) -> bool:
    """Whether every output has the batch first, and is that of the batch's parts put together; seen by running random ones."""
    symbol = next((symbol for symbol, name in program.dims().items() if name == "batch"), None)
    values = [out.meta.get("val") for out in program.outputs() if isinstance(out, fx.Node)]
    if symbol is None or not all(isinstance(v, torch.Tensor) and v.dim() and str(v.shape[0]) == symbol for v in values):
        return False
    low, high = program.ranges.get(symbol, (1, None))
    least = max(low, 1)
    size = 2 * least
    if high is not None and size > high:
        return False
    batched = [
        isinstance(v := node.meta.get("val"), torch.Tensor) and v.dim() > 0 and str(v.shape[0]) == symbol
        for node in program.inputs()
    ]
    inputs = random_batch(program, size)
    halves = [
        [leaf[part : part + least] if cut else leaf for leaf, cut in zip(inputs, batched, strict=True)]
        for part in (0, least)
    ]
    whole, *parts = (run(program, some, wide=False).outputs for some in (inputs, *halves))
    together = [torch.cat(same) for same in zip(*parts, strict=True)]
    return sqnr(whole, together) >= _ALIKE_DB
