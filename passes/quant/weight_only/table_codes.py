"""A table of embeddings as integers with a scale for each row: stored, gathered, and read by a head that is tied to it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from fxopt.backend import Backend
from fxopt.ir.op_table import set_argument
from fxopt.ir.program import Program
from fxopt.passes.quant.weights import largest_code, quantize_weight, weight_scales

aten = torch.ops.aten
importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the op
_SHARES = torch.linspace(1.0, 0.6, 17, dtype=torch.float64)
"""Scales of 4 bits that are tried, as shares of the one that clips nothing."""


@dataclass(frozen=True, eq=False)
class StoredTable:
    """Nodes of int8 ``codes`` [rows, width], or two of 4 bits in each, [rows, ⌈width / 2⌉], and of ``scales`` [rows, 1]."""

    codes: fx.Node
    scales: fx.Node
    bits: int
    width: int

    def rows(self, program: Program, indices: fx.Node, *, at: fx.Node) -> fx.Node:
        """Gather rows and dequantize them, before the node ``at``."""

        def insert(target: Callable[..., Any], *args: Any) -> fx.Node:
            with program.graph.inserting_before(at):
                made = program.graph.call_function(target, args)
            made.meta["stack_trace"] = at.meta.get("stack_trace")
            return made

        real = insert(aten.to.dtype, insert(aten.embedding.default, self.codes, indices), torch.float32)
        if self.bits == 4:
            # a byte is 16 · right + left + 8, of codes from -7 to 7: exact in float, and no bits have to be shifted
            right = insert(aten.floor.default, insert(aten.mul.Tensor, real, 0.0625))
            left = insert(aten.sub.Tensor, real, insert(aten.mul.Tensor, right, 16.0))
            real = insert(aten.cat.default, [insert(aten.sub.Tensor, left, 8.0), right], -1)
            if self.width % 2:
                real = insert(aten.slice.Tensor, real, -1, 0, self.width)
        return insert(aten.mul.Tensor, real, insert(aten.embedding.default, self.scales, indices))

    def feed(self, program: Program, head: fx.Node) -> None:
        """Let a linear whose weight is the table, of 8 bits, read the codes, with a scale for each output."""
        set_argument(head, "weight", _dequantized(program, self.codes, self.scales, self.width, head))


def store_table(program: Program, name: str, table: torch.Tensor, bits: int, before: fx.Node) -> StoredTable:
    """Quantize a table float32 [rows, width] to ``bits``, 4 or 8, and add it to the program."""
    scales = weight_scales(table) if bits == 8 else _least_squares(table, bits)
    integers = quantize_weight(table, scales, bits)
    codes = program.add_tensor(f"{name}_int{bits}", _packed(integers) if bits == 4 else integers, before)
    return StoredTable(codes, program.add_tensor(f"{name}_scale", scales[:, None], before), bits, table.shape[1])


def head_refused(program: Program, backend: Backend | None, table: fx.Node, head: fx.Node) -> str | None:
    """Why the backend does not build what a tied head would read; None if it does, or if there is no backend."""
    if backend is None:
        return None
    wanted = _dequantized(program, table, table, table.meta["val"].shape[1], head)
    wanted.meta["val"] = table.meta["val"]
    reason = backend.refuses(wanted)
    program.graph.erase_node(wanted)
    return reason


def _dequantized(program: Program, codes: fx.Node, scales: fx.Node, width: int, before: fx.Node) -> fx.Node:
    largest = largest_code(8)
    target = torch.ops.quantized_decomposed.dequantize_per_channel_group.default
    numbers = (-largest, largest, torch.int8, width, torch.float32)
    with program.graph.inserting_before(before):
        node = program.graph.call_function(target, (codes, scales, None, *numbers))
    node.meta["stack_trace"] = before.meta.get("stack_trace")
    return node


def _least_squares(table: torch.Tensor, bits: int) -> torch.Tensor:
    """Of the scales from one that clips nothing down to 0.6 of it, that of least squared error for each row."""
    whole = weight_scales(table, bits=bits)
    best, least = whole, torch.full(whole.shape, torch.inf, dtype=torch.float64)
    for share in _SHARES:
        scales = (whole.double() * share).float()
        real = quantize_weight(table, scales, bits).double() * scales.double()[:, None]
        lost = (table.detach().double() - real).square().sum(1)
        best, least = torch.where(lost < least, scales, best), torch.minimum(lost, least)
    return best


def _packed(codes: torch.Tensor) -> torch.Tensor:
    """Codes from -7 to 7, int8 [rows, width], two in each int8 [rows, ⌈width / 2⌉]: 16 · right half + left half + 8."""
    left, right = F.pad(codes, (0, codes.shape[1] % 2)).to(torch.int16).chunk(2, 1)
    return (16 * right + left + 8).to(torch.int8)
