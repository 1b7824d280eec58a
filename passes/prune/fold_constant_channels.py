"""Move what constant channels contribute to a layer into its bias."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.alias_analysis import alias_sets, written_sets
from fxopt.ir.op_table import DIRECT, TRANSPOSED, arguments, set_argument
from fxopt.ir.printer import op_name
from fxopt.passes.prune.known.cells import settle
from fxopt.passes.prune.known.sums import pads
from fxopt.passes.prune.known.values import known_values

_CONVOLUTIONS = (*DIRECT, *TRANSPOSED)
_MATMULS = ("aten.matmul", "aten.mm", "aten.addmm")
_LAYERS = (*_CONVOLUTIONS, "aten.linear", *_MATMULS)


@graph_pass(assumes_finite=True)
def fold_constant_channels(program: Program) -> None:
    """Fold the contribution of constant input channels into the bias of a layer, and zero their weights.

    A channel whose filters are zero carries a constant: its bias, through what follows. Where convolutions, grouped ones
    too, linear and matmul with a weight read a constant c other than zero, the bias becomes b + W[:, channel] · c and
    W[:, channel] zero, so that the channel may be removed. Computed in float64, stored in the weight's dtype. A
    convolution that pads with zeros is left alone: at the border it reads them instead of the constant.

    before:
        %x : f32[2,4]
        %w = param "fc.weight" : f32[3,5]
        %one = aten.new_ones(%x, [2, 1])
        %h = aten.cat([%x, %one], 1)
        %y = aten.linear(%h, %w)
        return %y
    after:
        %x : f32[2,4]
        %w = param "fc.weight" : f32[3,5]
        %b = param "fc.bias" : f32[3]
        %one = aten.new_ones(%x, [2, 1])
        %h = aten.cat([%x, %one], 1)
        %y = aten.linear(%h, %w, %b)
        return %y
    """
    layers = list(program.find(*_LAYERS))
    known = known_values(program) if layers else {}
    sets = alias_sets(program.graph)
    dirty = written_sets(program.graph, sets)
    for node in reversed(layers):  # a matmul gets an addition after it, of which ``known`` says nothing
        source, weight_node, bias_node = _operands(node)
        constants = _constants(node, source, known)
        if constants is None or not bool(constants.count_nonzero()):
            continue
        weight, bias = program.tensor(weight_node), program.tensor(bias_node)
        if weight is not None and weight is program.tensor(source):
            continue  # a weight times itself: to zero it would change both
        if weight is None or (bias is None and bias_node is not None):
            program.skip(node, f"{_count(constants)}, but its weight or bias is computed, not stored")
            continue
        if sets[weight_node] in dirty or (bias_node is not None and sets[bias_node] in dirty):
            program.skip(node, f"{_count(constants)}, but its weight or bias is written to in place")
            continue
        _fold(program, node, constants, weight, bias)


def _operands(node: fx.Node) -> tuple[Any, Any, Any]:
    call = arguments(node)
    if op_name(node) == "aten.addmm":
        return call["mat1"], call["mat2"], call["self"]
    if op_name(node) in _MATMULS:
        first, second = list(call.values())[:2]
        return first, second, None
    return call["input"], call["weight"], call["bias"]


def _constants(node: fx.Node, source: fx.Node, known: dict[fx.Node, torch.Tensor]) -> torch.Tensor | None:
    """The constant of each channel that is one and is not zero, 0 for the others; None where there is none."""
    if source not in known:
        return None
    cells = known[source]
    rank = cells.dim()
    at = rank - 1
    if op_name(node) in _CONVOLUTIONS:
        at = rank + 1 - arguments(node)["weight"].meta["val"].dim()
    size = source.meta["val"].shape[at]
    cells = settle(cells, [d for d in range(rank) if d != at]).reshape(-1).double()
    return torch.where(cells.isnan(), 0.0, cells).expand(size) if isinstance(size, int) else None


def _fold(
    program: Program, node: fx.Node, constants: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> None:
    grouped = _grouped(node, weight)
    if grouped is None:
        return
    values = constants.reshape(grouped.shape[0], 1, -1, 1)
    reads = (grouped != 0) & (values != 0)
    if not bool(reads.any()):
        return
    reason = _declined(node, bias)
    if reason:
        program.skip(node, f"{_count(constants)}, but {reason}")
        return
    moved = (torch.where(values == 0, 0.0, grouped.double()) * values).sum((2, 3)).flatten()
    new_bias = ((0.0 if bias is None else bias.double()) + moved).to(weight.dtype)
    if not bool(new_bias.isfinite().all()):
        program.skip(node, f"{_count(constants)}, but the bias would be beyond the range of {weight.dtype}")
        return
    kept = torch.where(values == 0, grouped, 0.0)
    _store(program, node, _ungrouped(node, kept, weight.shape).contiguous(), new_bias)


def _grouped(node: fx.Node, weight: torch.Tensor) -> torch.Tensor | None:
    """The weight as [group, out, in, kernel]; None for a product with a weight of another rank, which is no layer."""
    if op_name(node) in _MATMULS:
        return weight.detach().t()[None, :, :, None] if weight.dim() == 2 else None
    if op_name(node) in TRANSPOSED:
        groups = arguments(node)["groups"]
        inputs, outputs = weight.shape[0] // groups, weight.shape[1]
        return weight.detach().reshape(groups, inputs, outputs, -1).transpose(1, 2)
    groups = arguments(node).get("groups", 1)
    return weight.detach().reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _ungrouped(node: fx.Node, grouped: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    return grouped[0, :, :, 0].t() if op_name(node) in _MATMULS else grouped.reshape(shape)


def _declined(node: fx.Node, bias: torch.Tensor | None) -> str | None:
    name, call = op_name(node), arguments(node)
    if name in TRANSPOSED:
        return "a transposed convolution does not spread them evenly"
    if name in _CONVOLUTIONS and pads(call):
        return "it pads with zeros: at the border it reads those instead"
    if name == "aten.addmm" and (call["alpha"] != 1 or call["beta"] != 1):
        return f"it scales its bias or its product: alpha={call['alpha']}, beta={call['beta']}"
    if name == "aten.addmm" and bias is not None and bias.dim() != 1:
        return "what it adds is no bias, but has several dims"
    return None


def _count(constants: torch.Tensor) -> str:
    return f"{int(constants.count_nonzero())} of {len(constants)} channels it reads are constant"


def _store(program: Program, node: fx.Node, weight: torch.Tensor, bias: torch.Tensor) -> None:
    _, weight_node, bias_node = _operands(node)
    path = str(weight_node.target).rpartition(".")[0]
    program.swap_tensor(node, weight_node, weight)
    if bias_node is not None:
        program.swap_tensor(node, bias_node, bias)
        return
    name = f"{path}.bias".lstrip(".")
    if op_name(node) not in _MATMULS:
        set_argument(node, "bias", program.add_tensor(name, bias, node))
        return
    added = program.add_tensor(name, bias, node)
    result = program.call(torch.ops.aten.add.Tensor, node, added, like=node)
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)
