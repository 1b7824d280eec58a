"""Rotary embeddings as ONNX Runtime's own kernel, which reads tables of cosines and sines by the positions of tokens.

The tables are the cosines and sines of the call, a row for each token in it: however a model comes by its angles, the kernel
multiplies by the same numbers.
"""

from __future__ import annotations

import torch
from torch import fx

from fxopt.backends.onnx.heads import COPIES, merged, split_from
from fxopt.backends.onnx.rotary_forms import Rotary, match_rotary, rotary_written_out
from fxopt.backends.onnx.shaped_calls import STEM, call, size_of
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy

aten = torch.ops.aten


def use_rotary_kernels(program: Program) -> Program:
    """Return a copy in which rotary embeddings are ``com.microsoft.RotaryEmbedding``, where that gives the same numbers.

    It does where :func:`rotary_written_out` has no reason. The program itself where it has no such embedding.
    """
    if not any(_rotary_of(program, node) for node in program.find("aten.add.Tensor")):
        return program
    twin = shared_copy(program)
    tables = _Tables(twin)
    for node in twin.find("aten.add.Tensor"):
        if rotary := _rotary_of(twin, node):
            _replace(twin, rotary, tables)
    twin.graph.eliminate_dead_code()
    twin.module.recompile()
    return twin


def _rotary_of(program: Program, node: fx.Node) -> Rotary | None:
    rotary = match_rotary(node)
    return rotary if rotary is not None and rotary_written_out(program, rotary) is None else None


def _replace(program: Program, rotary: Rotary, tables: _Tables) -> None:
    node, value = rotary.result, rotary.value
    with program.graph.inserting_before(node):
        tabled = [tables.of(angles) for angles in (rotary.cosine, rotary.sine)]
        positions = tables.positions(rotary.cosine, tabled[0], node)
        by_token = split_from(value) is not None
        source = merged(program, value) if by_token else value
        sizes = [size_of(program, source, dim) for dim in range(source.meta["val"].dim())]
        made = program.graph.call_function(
            torch.onnx.ops.symbolic,
            ("com.microsoft::RotaryEmbedding", [source, positions, *tabled], {"interleaved": 0}),
            {"dtype": torch.float32, "shape": sizes, "version": 1},
        )
        made.meta |= {"val": source.meta["val"].new_empty(source.meta["val"].shape), STEM: node.name}
        made.meta["stack_trace"] = node.meta.get("stack_trace")
        if by_token:
            made = call(program, aten.unflatten.int, made, 2, [int(size) for size in value.meta["val"].shape[1::2]])
            made = call(program, aten.transpose.int, made, 1, 2)
    name = node.name
    node.replace_all_uses_with(made)
    program.graph.erase_node(node)
    made._rename(name)


class _Tables:
    """Cosines or sines ``[tokens, width / 2]`` and where each token's are, made in front of the first call that reads them."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._made: dict[fx.Node, fx.Node] = {}

    def of(self, angles: fx.Node) -> fx.Node:
        """The table of cosines or sines ``[batch or 1, 1, length, width]``, whose first dims may be missing."""
        source = _rows(angles)
        if source not in self._made:
            half = source.meta["val"].shape[-1] // 2
            first = call(self._program, aten.slice.Tensor, source, -1, 0, half)
            self._made[source] = call(self._program, aten.reshape.default, first, [-1, half])
        return self._made[source]

    def positions(self, angles: fx.Node, table: fx.Node, before: fx.Node) -> fx.Node:
        """int64 ``[batch, length]``, or ``[1]`` where all examples have the same rows: the first one's."""
        if table not in self._made:
            self._made[table] = self._positions(angles, table, before)
        return self._made[table]

    def _positions(self, angles: fx.Node, table: fx.Node, before: fx.Node) -> fx.Node:
        program, value = self._program, angles.meta["val"]
        if value.dim() < 4 or value.shape[0] == 1:
            return program.add_tensor(f"{before.name}_position", torch.zeros(1, dtype=torch.int64), before)
        rows = size_of(program, table, 0)
        made = program.graph.call_function(aten.arange.default, (rows,))
        made.meta["val"] = value.new_empty(table.meta["val"].shape[:1], dtype=torch.int64)
        return call(program, aten.reshape.default, made, [size_of(program, angles, 0), size_of(program, angles, 2)])


def _rows(angles: fx.Node) -> fx.Node:
    """What cosines or sines are, before dims of size one and copies: layers share it."""
    while op_name(angles) in ("aten.unsqueeze", *COPIES):
        angles = angles.args[0]  # type: ignore[assignment]
    return angles
