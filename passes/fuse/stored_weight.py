"""A stored weight in another form, whether it is held in numbers or in codes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from fxopt import Program
from fxopt.text import op_name

Form = Callable[[torch.Tensor], torch.Tensor]


def reform(program: Program, weight: fx.Node, form: Form, layer: fx.Node, axis: int | None) -> fx.Node | None:
    """A node before ``layer`` that gives ``form`` of a weight; None for one that is computed, or that ``form`` would spoil.

    Codes stay codes. Where they have scales along a dim, that must be ``axis``, and be there as before in the result; with
    None, there may be no more than one scale.
    """
    if (tensor := program.tensor(weight)) is not None:
        return program.add_tensor(f"{weight.target}_reformed", form(tensor.detach()), layer)
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
    new = program.add_tensor(f"{stored.target}_reformed", form(codes), layer)
    with program.graph.inserting_before(layer):
        real = program.graph.call_function(weight.target, (new, *how))  # type: ignore[arg-type]
    real.meta["stack_trace"] = weight.meta.get("stack_trace")
    return real
