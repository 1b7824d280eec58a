"""The program as XNNPACK's partitioner wants it; its numbers stay."""

from __future__ import annotations

import math

import torch

from fxopt.backends.executorch.int8_form import Stored, int8_form
from fxopt.ir.op_table import arguments, bounds, each_dim
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy


def kernel_form(program: Program) -> tuple[Program, list[Stored]]:
    """Return a copy in which XNNPACK fuses clamps and takes padded pools and integer layers; and weights stored in float."""
    form = shared_copy(program)
    _name_clamps(form)
    _pad_before_pools(form)
    _write_out_gelu(form)
    stored = int8_form(form)
    form.graph.eliminate_dead_code()
    form.module.recompile()
    return form, stored


def _name_clamps(form: Program) -> None:
    """Write a clamp between two numbers as hardtanh, which alone of the two is part of a layer."""
    for node in form.find("aten.clamp", "aten.relu6"):
        low, high = bounds(node) or (None, None)
        if isinstance(low, (int, float)) and isinstance(high, (int, float)) and node.meta["val"].is_floating_point():
            made = form.call(torch.ops.aten.hardtanh.default, node.args[0], float(low), float(high), like=node)
            made.meta["val"] = node.meta["val"]
            form.replace(node, made)


def _pad_before_pools(form: Program) -> None:
    """Pad with zeros before an average pool that counts them: XNNPACK's leaves its own padding out of the mean."""
    for node in form.find("aten.avg_pool2d"):
        call = arguments(node)
        height, width = each_dim(call["padding"], 2)
        plain = call["count_include_pad"] and not call["ceil_mode"] and call["divisor_override"] is None
        if not plain or not (height or width):
            continue
        with form.graph.inserting_before(node):
            padded = form.graph.call_function(
                torch.ops.aten.constant_pad_nd.default, (node.args[0], [width, width, height, height], 0.0)
            )
        padded.meta["stack_trace"] = node.meta.get("stack_trace")
        kernel = list(each_dim(call["kernel_size"], 2))
        node.args = (padded, kernel, list(each_dim(call["stride"] or kernel, 2)), [0, 0])
        node.kwargs = {}


def _write_out_gelu(form: Program) -> None:
    """Write GELU by tanh as its formula: XNNPACK would compute the one by the error function, 6e-4 off."""
    for node in form.find("aten.gelu"):
        if arguments(node)["approximate"] != "tanh":
            continue
        ops, source = torch.ops.aten, node.args[0]
        with form.graph.inserting_before(node):
            call = form.graph.call_function
            square = call(ops.mul.Tensor, (source, source))
            inner = call(ops.add.Scalar, (call(ops.mul.Scalar, (square, 0.044715)), 1.0))
            scaled = call(ops.mul.Scalar, (call(ops.mul.Tensor, (source, inner)), math.sqrt(2 / math.pi)))
            gate = call(ops.add.Scalar, (call(ops.tanh.default, (scaled,)), 1.0))
            made = call(ops.mul.Tensor, (call(ops.mul.Scalar, (source, 0.5)), gate))
        for new in (square, inner, scaled, gate, made):
            new.meta["stack_trace"] = node.meta.get("stack_trace")
        made.meta["val"] = node.meta["val"]
        form.replace(node, made)
