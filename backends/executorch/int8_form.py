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
_BLOCKS = f"{_OPS}dequantize_per_channel_group"
_STORED = (_DEQUANTIZE, f"{_OPS}dequantize_per_channel")
_AS_IT_RUNS = (f"{_DEQUANTIZE}.tensor", f"{_OPS}dequantize_per_token")
_MOVES = ("aten.cat", "aten.max_pool2d")
_SIGN = 128


@dataclass(frozen=True)
class Stored:
    """A layer whose weight is stored in float although the program has codes: its name, and why."""

    node: str
    reason: str


def int8_form(form: Program) -> list[Stored]:
    """Bring the quantize and dequantize ops of ``form`` into that form, in place; return weights that had to become float."""
    if not any(form.find(_QUANTIZE, *_STORED, _BLOCKS)):
        return []
    _turn_products(form)
    _store_biases(form)
    _give_blocks_zero_points(form)
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


def _turn_products(form: Program) -> None:
    """Write a product with a stored matrix on the right as a linear, which alone has integer kernels."""
    for node in form.find("aten.mm", "aten.matmul", "aten.addmm"):
        *bias, left, right = node.args
        scaled = any(value != 1 for value in node.kwargs.values())  # alpha and beta of addmm
        if scaled or left.meta["val"].dim() < 2 or right.meta["val"].dim() != 2:  # type: ignore[union-attr]
            continue
        turned = _turned(form, right)
        if turned is not None:
            form.replace(node, form.call(torch.ops.aten.linear.default, left, turned, *bias, like=node))


def _turned(form: Program, matrix: Any) -> fx.Node | None:
    """The transpose of a dequantized matrix [K,N], made of its codes; None for any other value."""
    if op_name(matrix) in ("aten.transpose.int", "aten.t", "aten.permute") and op_name(matrix.args[0]) == _BLOCKS:
        return matrix.args[0]
    if not _is_stored(form, matrix) or op_name(matrix) == _DEQUANTIZE or matrix.args[3] != 1:
        return None
    codes = form.tensor(matrix.args[0])
    assert codes is not None
    name = f"{matrix.args[0].target}_turned"
    args = (form.add_tensor(name, codes.T.contiguous(), matrix), *matrix.args[1:3], 0, *matrix.args[4:])
    return form.call(matrix.target, *args, like=matrix)


def _store_biases(form: Program) -> None:
    for node in [node for node in form.graph.nodes if family(node) == "contraction"]:
        bias = arguments(node).get("bias")
        if isinstance(bias, fx.Node) and _is_stored(form, bias):
            name = str(bias.args[0].target).removesuffix("_int32")  # type: ignore[union-attr]
            set_argument(node, "bias", form.add_tensor(f"{name}_real", _real(form, bias), node))


def _give_blocks_zero_points(form: Program) -> None:
    """XNNPACK reads zero points of blocks, which are zero."""
    for node in form.find(_BLOCKS):
        integers, scales, zeros, *rest = node.args
        if zeros is None:
            stored = form.tensor(scales)
            if stored is None:
                continue
            tensor = torch.zeros(stored.shape, dtype=torch.int32)
            zeros = form.add_tensor(f"{scales.target}_zero_point", tensor, node)  # type: ignore[union-attr]
            node.args = (integers, scales, zeros, *rest)


def _use_signed_codes(form: Program) -> None:
    """Move unsigned codes by 128: q - z is what it was."""
    for node in form.find(_QUANTIZE, _DEQUANTIZE):
        if op_name(node) in (_QUANTIZE, _DEQUANTIZE) and node.args[5] == torch.uint8:
            source, scale, zero, low, high, _ = node.args
            node.args = (source, scale, zero - _SIGN, low - _SIGN, high - _SIGN, torch.int8)  # type: ignore[operator]


def _share_no_dequantize(form: Program) -> None:
    """Give each reader a dequantize op of its own, which is part of the reader."""
    for node in form.find(_DEQUANTIZE, f"{_OPS}dequantize_per_channel", _BLOCKS):
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
    if op_name(source) in _AS_IT_RUNS:
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
