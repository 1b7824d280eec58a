"""Fold batch norm into the convolution or linear before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import DIRECT, TRANSPOSED, arguments, set_argument
from fxopt.ir.printer import op_name

_FOLDABLE = (*DIRECT, *TRANSPOSED, "aten.linear")


@graph_pass(stage="exact")
def fold_batch_norm(program: Program) -> None:
    """Fold evaluation-mode batch norm into the weight and bias of the preceding convolution or linear.

    With s = gamma / sqrt(var + eps), the weight becomes W · s per output channel and the bias (b - mean) · s + beta
    (Jacob et al. 2018, section 3.2). Ordinary, grouped, depthwise and transposed convolutions in 1 to 3 dims. The
    weight is computed in float64 and stored in its own dtype. One that other layers share gets a copy of its own here,
    so the file may grow.

    before:
        %x : f32[2,3,8,8]
        %w = param "conv.weight" : f32[4,3,3,3]
        %gamma = param "bn.weight" : f32[4]
        %beta = param "bn.bias" : f32[4]
        %mean = param "bn.running_mean" : f32[4]
        %var = param "bn.running_var" : f32[4]
        %y = aten.conv2d(%x, %w)
        %z = aten.batch_norm(%y, %gamma, %beta, %mean, %var, False, 0.1, 1e-05, False)
        return %z
    after:
        %x : f32[2,3,8,8]
        %w = param "conv.weight" : f32[4,3,3,3]
        %b = param "conv.bias" : f32[4]
        %y = aten.conv2d(%x, %w, %b)
        return %y
    """
    for node in program.find("aten.batch_norm"):
        norm = arguments(node)
        producer = norm["input"]
        reason = _declined(program, norm, producer)
        if reason:
            program.skip(node, reason)
            continue
        weight, bias = _folded(program, producer, norm)
        if not (weight.isfinite().all() and bias.isfinite().all()):
            program.skip(node, f"folded, the weight or bias would be beyond the range of {weight.dtype}")
            continue
        _store(program, producer, weight, bias)
        program.replace(node, producer)


def _declined(program: Program, norm: dict[str, Any], producer: fx.Node) -> str | None:
    if norm["training"]:
        return "training=True: it normalises with the statistics of each batch"
    if norm["running_mean"] is None or norm["running_var"] is None:
        return "it has no running statistics"
    if any(
        norm[k] is not None and program.tensor(norm[k]) is None
        for k in ("weight", "bias", "running_mean", "running_var")
    ):
        return "its scale, shift or statistics are computed, not stored"
    if producer.op != "call_function" or op_name(producer) not in _FOLDABLE:
        before = op_name(producer) if producer.op == "call_function" else "an input of the model"
        return f"what comes before it is {before}, not a convolution or linear"
    if len(producer.users) > 1:
        return f"the result of {op_name(producer)} is also used elsewhere, without this batch norm"
    layer = arguments(producer)
    weight = program.tensor(layer["weight"])
    if weight is None or (layer["bias"] is not None and program.tensor(layer["bias"]) is None):
        return f"the weight of {op_name(producer)} is computed, not stored"
    got, expected = producer.meta["val"].dim(), weight.dim()
    if got != expected:
        return f"the result of {op_name(producer)} has {got} dims, not {expected}: the second, which is normalized, is no channel"
    return None


def _folded(program: Program, layer: fx.Node, norm: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    old = arguments(layer)
    weight, bias = program.tensor(old["weight"]), program.tensor(old["bias"])
    mean, var = program.tensor(norm["running_mean"]), program.tensor(norm["running_var"])
    assert weight is not None
    assert mean is not None
    assert var is not None
    gamma, beta = program.tensor(norm["weight"]), program.tensor(norm["bias"])
    scale = torch.rsqrt(var.double() + norm["eps"]) * (1.0 if gamma is None else gamma.double())
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    new_bias = shift * scale + (0.0 if beta is None else beta.double())
    if op_name(layer) in TRANSPOSED:
        groups, inputs, outputs = old["groups"], weight.shape[0], weight.shape[1]
        grouped = weight.double().reshape(groups, inputs // groups, outputs, -1)
        new_weight = (grouped * scale.reshape(groups, 1, outputs, 1)).reshape(weight.shape)
    else:
        new_weight = weight.double() * scale.reshape(-1, *[1] * (weight.dim() - 1))
    return new_weight.to(weight.dtype), new_bias.to(weight.dtype)


def _store(program: Program, layer: fx.Node, weight: torch.Tensor, bias: torch.Tensor) -> None:
    old = arguments(layer)
    path = str(old["weight"].target).rpartition(".")[0]
    program.swap_tensor(layer, old["weight"], weight)
    if old["bias"] is not None:
        program.swap_tensor(layer, old["bias"], bias)
    else:
        set_argument(layer, "bias", program.add_tensor(f"{path}.bias".lstrip("."), bias, layer))
