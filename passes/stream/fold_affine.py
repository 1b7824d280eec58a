"""Fold the weight and bias of a norm into the layers that read what it gives."""

from __future__ import annotations

import torch
from torch import fx

from fxopt.ir.op_table import arguments, set_argument
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.stream.channels import Source, keeps_constants, reads_numbers, results, sizes, sources
from fxopt.passes.stream.layers import Read, WeightChanges, read_by, scaled

aten = torch.ops.aten


def affine_readers(
    program: Program, norm: fx.Node, channels: int, *, shifted: bool
) -> list[Read] | tuple[fx.Node, str]:
    """All layers that read a norm's result, by way of ops that treat channels alike; or the call that is none, and why.

    With ``shifted`` a vector that is added to the result has to reach them as it is.
    """
    found: list[Read] = []
    todo: list[Source] = [(norm, len(sizes(norm)) - 1)]
    seen: set[fx.Node] = set()
    while todo:
        node, dim = todo.pop()
        for user in node.users:
            if not reads_numbers(user):
                continue
            if (read := read_by(program, user, node, dim)) is not None:
                if shifted and read.pads:
                    return user, f"{op_name(user)} pads what it gives with zeros"
                found.append(read)
                continue
            for result in list(results(user)) if user.op == "call_function" else [user]:
                place = _place(result, (node, dim), channels, shifted=shifted)
                if place is None:
                    name = op_name(result) if result.op == "call_function" else "an output of the model"
                    return user, f"{name} reads what it gives"
                if result not in seen:
                    seen.add(result)
                    todo.append((result, place))
    return found


def _place(result: fx.Node, source: Source, channels: int, *, shifted: bool) -> int | None:
    for dim, size in enumerate(sizes(result)):
        alone = size % channels == 0 and sources(result, dim, channels) == [source]
        if alone and (not shifted or keeps_constants(result, source, dim, channels)):
            return dim
    return None


def fold_affine(program: Program, norm: fx.Node, readers: list[Read]) -> None:
    """Multiply the columns of the readers by the norm's weight, give them its bias, and take both from the norm.

    With y = γ n + β, W y + b = (W γ) n + (W β + b).
    """
    call = arguments(norm)
    weight, bias = program.tensor(call["weight"]), program.tensor(call.get("bias"))
    changes = WeightChanges(program)
    if bias is not None and bool((bias != 0).any()):
        for read in readers:
            _shift(program, read, bias.detach().double())
    if weight is not None and bool((weight != 1).any()):
        vector = weight.detach().double()
        for read in readers:
            changes.ask(read.held, ("affine", norm.name), scaled(vector, read.held.dim))
    changes.apply()
    set_argument(norm, "weight", None)
    if "bias" in call:
        set_argument(norm, "bias", None)


def _shift(program: Program, read: Read, vector: torch.Tensor) -> None:
    """Add to a layer's bias what it gives for a vector."""
    layer, more = read.held.layer, read.folded(program, vector)
    old = arguments(layer)[read.bias] if read.bias else None
    weight = program.tensor(read.held.weight)
    assert weight is not None
    path = str(read.held.weight.target).rpartition(".")[0]
    if old is not None:
        stored = program.tensor(old)
        assert stored is not None
        program.swap_tensor(layer, old, (stored.detach().double() + more).to(stored.dtype))
        return
    bias = program.add_tensor(f"{path}.bias".lstrip("."), more.to(weight.dtype), layer)
    if read.bias is not None:
        set_argument(layer, read.bias, bias)
        return
    with program.graph.inserting_after(layer):
        total = program.graph.call_function(aten.add.Tensor, (layer, bias))
    total.meta.update({k: layer.meta[k] for k in ("stack_trace", "val") if k in layer.meta})
    layer.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)


def has_affine(program: Program, norm: fx.Node) -> tuple[bool, bool]:
    """Whether a norm has a weight that is not one everywhere, and a bias that is not zero; computed ones count."""
    call = arguments(norm)
    return _differs(program, call["weight"], 1.0), _differs(program, call.get("bias"), 0.0)


def _differs(program: Program, node: fx.Node | None, number: float) -> bool:
    if node is None:
        return False
    tensor = program.tensor(node)
    return tensor is None or bool((tensor != number).any())
