"""A quantized program in the form whose parts XNNPACK computes in integers.

XNNPACK has signed bytes alone, takes a layer only together with a dequantize op of its own for each operand and with the
quantize op behind it, keeps biases in float and rounds them to the scale of the products itself, and moves codes only
where they have one scale before and behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import Trait, arguments, bounds, family, has, pads_zeros, set_argument
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program

_OPS = "quantized_decomposed."
_QUANTIZE, _DEQUANTIZE = f"{_OPS}quantize_per_tensor", f"{_OPS}dequantize_per_tensor"
_STORED = (_DEQUANTIZE, f"{_OPS}dequantize_per_channel")
_MOVES = ("aten.cat", "aten.max_pool2d")
_SIGN = 128


@dataclass(frozen=True)
class Stored:
    """A layer whose weight is stored in float although the program has codes: its name, and why."""

    node: str
    reason: str


def int8_form(form: Program) -> list[Stored]:
    """Bring the quantize and dequantize ops of ``form`` into that form, in place; return weights that had to become float."""
    if not any(form.find(_QUANTIZE, *_STORED)):
        return []
    _store_biases(form)
    form.graph.eliminate_dead_code()
    _use_signed_codes(form)
    _share_no_dequantize(form)
    _use_one_scale(form)
    _keep_pads_in_float(form)
    return list(_store_weights(form))


def _is_stored(form: Program, node: Any) -> bool:
    """Whether a node dequantizes codes that are stored."""
    return isinstance(node, fx.Node) and op_name(node) in _STORED and form.tensor(node.args[0]) is not None


def _real(form: Program, node: fx.Node) -> torch.Tensor:
    """What stored codes stand for."""
    args = [form.tensor(arg) if isinstance(arg, fx.Node) else arg for arg in node.args]
    made: torch.Tensor = node.target(*args)  # type: ignore[operator]
    return made.detach()


def _store_biases(form: Program) -> None:
    for node in [node for node in form.graph.nodes if family(node) == "contraction"]:
        bias = arguments(node).get("bias")
        if isinstance(bias, fx.Node) and _is_stored(form, bias):
            name = str(bias.args[0].target).removesuffix("_int32")  # type: ignore[union-attr]
            set_argument(node, "bias", form.add_tensor(f"{name}_real", _real(form, bias), node))


def _use_signed_codes(form: Program) -> None:
    """Move unsigned codes by 128: q - z is what it was."""
    for node in form.find(_QUANTIZE, _DEQUANTIZE):
        if op_name(node) in (_QUANTIZE, _DEQUANTIZE) and node.args[5] == torch.uint8:
            source, scale, zero, low, high, _ = node.args
            node.args = (source, scale, zero - _SIGN, low - _SIGN, high - _SIGN, torch.int8)  # type: ignore[operator]


def _share_no_dequantize(form: Program) -> None:
    """Give each reader a dequantize op of its own, which is part of the reader."""
    for node in form.find(_DEQUANTIZE, f"{_OPS}dequantize_per_channel"):
        for reader in list(node.users)[1:]:
            with form.graph.inserting_before(reader):
                own = form.graph.node_copy(node)
            reader.replace_input_with(node, own)


def _use_one_scale(form: Program) -> None:
    """Give what only moves codes the scale of its result: rounding before it or behind it is the same."""
    for node in [node for node in form.graph.nodes if _moves(node)]:
        reader = next(iter(node.users), None)
        if len(node.users) != 1 or reader is None or op_name(reader) != _QUANTIZE:
            continue
        code = reader.args[1:]
        for source in node.all_input_nodes:
            if op_name(source) == _DEQUANTIZE and source.args[1:] != code:
                node.replace_input_with(source, _through_codes(form, source, code, node))


def _keep_pads_in_float(form: Program) -> None:
    """Quantize what pads a dequantized value: XNNPACK's passes take such a pad for one of codes, whoever reads it.

    Zero has a code, so nothing is rounded.
    """
    for node in [node for node in form.graph.nodes if pads_zeros(node)]:
        source = node.all_input_nodes[0]
        if op_name(source) == _DEQUANTIZE and any(op_name(user) != _QUANTIZE for user in node.users):
            readers = list(node.users)
            real = _through_codes(form, node, source.args[1:], next(iter(readers)))
            for reader in readers:
                reader.replace_input_with(node, real)


def _through_codes(form: Program, value: fx.Node, code: Any, before: fx.Node) -> fx.Node:
    """Quantize a value and back, in front of a node."""
    ops = torch.ops.quantized_decomposed
    with form.graph.inserting_before(before):
        codes = form.graph.call_function(ops.quantize_per_tensor.default, (value, *code))
        real = form.graph.call_function(ops.dequantize_per_tensor.default, (codes, *code))
    for made in (codes, real):
        made.meta["stack_trace"] = value.meta.get("stack_trace")
    return real


def _moves(node: fx.Node) -> bool:
    return op_name(node) in _MOVES or family(node) in ("layout", "pick") or has(node, Trait.SAME_VALUE)


def _store_weights(form: Program) -> Iterator[Stored]:
    """Store weights in float that are not those of an integer layer."""
    for node in list(form.graph.nodes):
        if not _is_stored(form, node):
            continue
        (reader,) = node.users
        reason = _not_integer(form, node, reader)
        if reason is None:
            continue
        name = str(node.args[0].target)
        form.replace(node, form.add_tensor(f"{name}_real", _real(form, node), node))
        yield Stored(reader.name, reason)


def _not_integer(form: Program, weight: fx.Node, reader: fx.Node) -> str | None:
    """Why a reader of stored codes is not an integer layer of XNNPACK's; None if it is one."""
    if family(reader) != "contraction" or arguments(reader).get("weight") is not weight:
        return "XNNPACK reads codes only as the weight of a layer"
    source = arguments(reader)["input"]
    if op_name(source) == f"{_DEQUANTIZE}.tensor" or op_name(source) == f"{_OPS}dequantize_per_token":
        return None
    if op_name(source) != _DEQUANTIZE:
        return "its input is not quantized, and XNNPACK has integer layers only between quantized values"
    out = reader
    while len(out.users) == 1:
        (user,) = out.users
        if op_name(user) == _QUANTIZE:
            return None
        if out is not reader or bounds(user) is None:
            break
        out = user
    return "what it gives is not quantized, and XNNPACK has integer layers only between quantized values"
