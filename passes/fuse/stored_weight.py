"""A stored weight in another shape, whether it is float or quantized."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from fxopt import Program
from fxopt.ir.printer import op_name

Form = Callable[[torch.Tensor], torch.Tensor]


def reform(program: Program, weight: fx.Node, form: Form, axis: int | None) -> fx.Node | None:
    """A node with ``form`` of a stored weight; None for a computed one, or where its scales would no longer fit.

    A quantized weight stays quantized. If it has scales along a dim, that must be ``axis``, and ``form`` must keep that dim;
    with None, there may be no more than one scale.
    """
    if (tensor := program.tensor(weight)) is not None:
        return program.add_tensor(f"{weight.target}_reformed", form(tensor.detach()), weight)
    name = op_name(weight) if weight.op == "call_function" else ""
    if not name.startswith(
        ("quantized_decomposed.dequantize_per_tensor", "quantized_decomposed.dequantize_per_channel")
    ):
        return None
    stored, *how = weight.args
    codes = program.tensor(stored)
    if codes is None or weight.kwargs or ("per_channel" in name and (name.endswith("group") or how[2] != axis)):
        return None
    assert isinstance(stored, fx.Node)
    new = program.add_tensor(f"{stored.target}_reformed", form(codes), weight)
    return program.call(weight.target, new, *how, like=weight)
