"""Quantize tables of embeddings."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_doc import Doc
from annotated_types import Ge
from torch import fx

from fxopt import Context, Program, graph_pass
from fxopt.backend import Backend
from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.passes.common.stored_weights import names_any
from fxopt.passes.quant.weight_only.table_codes import StoredTable, head_refused, store_table

aten = torch.ops.aten


@graph_pass(kind="approx")
def quantize_embeddings(
    program: Program,
    context: Context,
    *,
    bits: Annotated[Literal[4, 8], Doc("Bits of a value.")] = 8,
    least_bytes: Annotated[int, Ge(0), Doc("Smaller tables stay in float.")] = 65536,
    keep_float: Annotated[tuple[str, ...], Doc("Weights or modules that stay in float, with wildcards.")] = (),
) -> None:
    """Quantize the tables of embeddings to int8 or int4, with a scale for each row.

    Rows are gathered first and then dequantized. A table shrinks to a quarter or an eighth, in the file and in memory, as do
    the bytes read from it. The result is float, so that nothing else changes. Two values of 4 bits share a byte, the left half
    of a row the lower bits; the scale of a row is that of the least squared error.

    A head that is tied to its table reads the same int8, a scale for each of its outputs, and multiplies in float: runtimes make
    its weight float as they load it. With 4 bits a tied table stays, and for a backend that does not take such a weight. So
    does, with the reason, a table that is computed, that something else reads, that is smaller than ``least_bytes``, or that
    ``keep_float`` names, with wildcards.
    Raises PassError for a table that is not finite.

    before:
        %x : i64[2,3]
        %w = param "embed.weight" : f32[2048,8]
        %y = aten.embedding(%w, %x)
        return %y
    after:
        %x : i64[2,3]
        %w = param "embed.weight_int8" : i8[2048,8]
        %s = param "embed.weight_scale" : f32[2048,1]
        %a = aten.embedding(%w, %x)
        %b = aten.to.dtype(%a, f32)
        %c = aten.embedding(%s, %x)
        %y = aten.mul.Tensor(%b, %c)
        return %y
    """
    stored: dict[int, StoredTable] = {}
    for node in program.find("aten.embedding"):
        table, indices = node.args[:2]
        assert isinstance(table, fx.Node)
        tensor = program.tensor(table)
        if tensor is None or id(tensor) not in stored:
            if reason := _declined(program, context.backend, table, bits, least_bytes, keep_float):
                program.skip(node, reason)
                continue
            assert tensor is not None
            if not bool(tensor.isfinite().all()):
                raise program.fail(node, f"the table {table.target!r} holds NaN or infinity")
            first = next(n for n in program.graph.nodes if n.op == "call_function")
            heads = _heads(program, tensor)
            stored[id(tensor)] = store_table(program, str(table.target), tensor, bits, first)
            for head in heads:
                stored[id(tensor)].feed(program, head)
        assert isinstance(indices, fx.Node)
        program.replace(node, stored[id(tensor)].rows(program, indices, at=node))


def _declined(
    program: Program,
    backend: Backend | None,
    table: fx.Node,
    bits: int,
    least_bytes: int,
    keep_float: tuple[str, ...],
) -> str | None:
    tensor = program.tensor(table)
    if tensor is None:
        return "its table is computed, not stored: run fold_constants before"
    if tensor.dtype != torch.float32:
        return f"its table is {tensor.dtype}, not float32"
    if tensor.nbytes < least_bytes:
        return f"its table of {tensor.nbytes:,} bytes is smaller than least_bytes={least_bytes:,}"
    readers = [(n, u) for n in program.graph.nodes if program.tensor(n) is tensor for u in n.users]
    heads = _heads(program, tensor)
    for node, user in readers:
        if user not in heads and (user.target is not aten.embedding.default or user.args[0] is not node):
            return f"%{user.name} reads its table too, so that it would be stored twice"
    if heads and bits == 4:
        return f"%{heads[0].name} reads its table too, and has no rows of 4 bits: take bits=8"
    if heads and (reason := head_refused(program, backend, table, heads[0])):
        return f"%{heads[0].name} reads its table too, and {reason}"
    names = [str(n.target) for n in program.graph.nodes if program.tensor(n) is tensor]
    if names_any(keep_float, names):
        return f"kept in float by keep_float={keep_float!r}"
    return None


def _heads(program: Program, tensor: torch.Tensor) -> list[fx.Node]:
    """The linears whose weight is the table, and that read it nowhere else."""
    linears = [node for node in program.graph.nodes if op_name(node) == "aten.linear"]
    reads = [(node, arguments(node)) for node in linears]
    return [
        node
        for node, call in reads
        if isinstance(call["weight"], fx.Node)
        and program.tensor(call["weight"]) is tensor
        and call["weight"] not in (call["input"], call.get("bias"))
    ]
