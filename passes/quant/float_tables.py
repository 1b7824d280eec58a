"""Tables of embeddings that stay float where the rest is quantized."""

from __future__ import annotations

import torch

from fxopt import Program

_LARGE = 1 << 20
"""Bytes from which a table is reported."""


def report_float_tables(program: Program) -> None:
    """Report every large embedding table that stays float, and which pass quantizes it."""
    for node in program.find("aten.embedding"):
        tensor = program.tensor(node.args[0])
        if tensor is not None and tensor.dtype == torch.float32 and tensor.nbytes >= _LARGE:
            size = f"{tensor.nbytes / 1e6:.1f} MB"
            program.skip(
                node,
                f"its table of {size} stays float; quantize_embeddings before makes it a quarter of that, an eighth with bits=4",
            )
