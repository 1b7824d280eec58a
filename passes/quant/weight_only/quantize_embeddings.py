"""Quantize tables of embeddings."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Annotated

import torch
from annotated_doc import Doc
from annotated_types import Ge
from torch import fx

from fxopt import Program, graph_pass
from fxopt.passes.quant.weights import quantize_weight, weight_scales

aten = torch.ops.aten


@graph_pass(kind="approx")
def quantize_embeddings(
    program: Program,
    *,
    least_bytes: Annotated[int, Ge(0), Doc("Smaller tables stay in float.")] = 65536,
    keep_float: Annotated[tuple[str, ...], Doc("Weights or modules that stay in float, with wildcards.")] = (),
) -> None:
    """Quantize the tables of embeddings to int8, with a scale for each row.

    Rows are gathered first and then dequantized. A table shrinks to a quarter, in the file and in memory, as do the bytes
    read from it. The result is float, so that nothing else changes. Left alone, with the reason, are tables smaller
    than ``least_bytes``, those that something else reads too, such as a head that is tied to them, and those that
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
    stored: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}
    for node in program.find("aten.embedding"):
        table, indices = node.args[:2]
        assert isinstance(table, fx.Node)
        if reason := _declined(program, table, least_bytes, keep_float):
            program.skip(node, reason)
            continue
        if table not in stored:
            tensor = program.tensor(table)
            assert tensor is not None
            if not bool(tensor.isfinite().all()):
                raise program.fail(node, f"the table {table.target!r} holds NaN or infinity")
            scales = weight_scales(tensor)
            codes = program.add_tensor(f"{table.target}_int8", quantize_weight(tensor, scales), node)
            stored[table] = codes, program.add_tensor(f"{table.target}_scale", scales[:, None], node)

        def insert(target: object, *args: object, at: fx.Node = node) -> fx.Node:
            with program.graph.inserting_before(at):
                made = program.graph.call_function(target, args)  # type: ignore[arg-type]
            made.meta["stack_trace"] = at.meta.get("stack_trace")
            return made

        codes, scale = stored[table]
        real = insert(aten.to.dtype, insert(aten.embedding.default, codes, indices), torch.float32)
        program.replace(node, insert(aten.mul.Tensor, real, insert(aten.embedding.default, scale, indices)))


def _declined(program: Program, table: fx.Node, least_bytes: int, keep_float: tuple[str, ...]) -> str | None:
    tensor = program.tensor(table)
    if tensor is None:
        return "its table is computed, not stored: run fold_constants before"
    if tensor.dtype != torch.float32:
        return f"its table is {tensor.dtype}, not float32"
    if tensor.nbytes < least_bytes:
        return f"its table of {tensor.nbytes:,} bytes is smaller than least_bytes={least_bytes:,}"
    nodes = [n for n in program.graph.nodes if program.tensor(n) is tensor]
    others = [u for n in nodes for u in n.users if u.target is not aten.embedding.default or u.args[0] is not n]
    if others:
        return f"%{others[0].name} reads its table too, so that it would be stored twice"
    names = [str(n.target) for n in nodes]
    if any(fnmatch(n, p) or fnmatch(n.rpartition(".")[0], p) for n in names for p in keep_float):
        return f"kept in float by keep_float={keep_float!r}"
    return None
