"""Write a chain of layers into the graph, in place of one."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.common.weight_modes import Core, Piece, SplitWeight
from fxopt.passes.lowrank.find_weights import OPERANDS

_NEUTRAL = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
"""Values of a layer's arguments for the kernel dims of other layers of the chain."""


def emit_chain(program: Program, weight: SplitWeight, cores: list[Core]) -> None:
    """Replace every reader of a weight by a chain of layers with these cores, which they share. The last one has the bias.

    A layer without bias maps zero padding to zeros, so each layer pads its own kernel dims.
    """
    first = weight.readers[0]
    nodes = []
    for k, core in enumerate(cores):
        tensor = weight.stored(core).requires_grad_(weight.tensor.requires_grad)
        nodes.append(program.add_tensor(f"{weight.names[0]}_{k}", tensor, first))
    for reader in weight.readers:
        if weight.kind == "matrix":
            last = _matrices(program, reader, nodes if weight.flipped else nodes[::-1])
        else:
            last = _convolutions(program, weight, reader, cores, nodes)
        program.replace(reader, last)


def _matrices(program: Program, reader: fx.Node, factors: list[fx.Node]) -> fx.Node:
    """Two layers for one whose weight is the product of the two factors as they are stored."""
    left, right = factors
    call, aten = arguments(reader), torch.ops.aten
    match op_name(reader):
        case "aten.linear":
            inner = program.call(reader.target, call["input"], right, like=reader)
            return program.call(reader.target, inner, left, *reader.args[2:], like=inner, **reader.kwargs)
        case "aten.embedding":
            inner = program.call(reader.target, left, *list(call.values())[1:], like=reader)
            return program.call(aten.matmul.default, inner, right, like=inner)
        case "aten.addmm":
            inner = program.call(aten.mm.default, call["mat1"], left, like=reader)
            return program.call(reader.target, call["self"], inner, right, like=inner)
        case _:
            inner = program.call(reader.target, call["self"], left, like=reader)
            return program.call(reader.target, inner, right, like=inner)


def _convolutions(
    program: Program, weight: SplitWeight, reader: fx.Node, cores: list[Core], nodes: list[fx.Node]
) -> fx.Node:
    call = arguments(reader)
    value, at = call[OPERANDS[op_name(reader)][0]], reader
    for core, node in zip(cores, nodes, strict=True):
        given: dict[str, Any] = call | {"input": value, "weight": node, "groups": core.piece.groups}
        given["bias"] = call["bias"] if node is nodes[-1] else None
        for name, neutral in _NEUTRAL.items():
            if isinstance(call.get(name), (list, tuple)):
                given[name] = _of_dims(call[name], len(weight.kernel), core.piece, neutral)
        value = at = program.call(reader.target, *given.values(), like=at)
    return value


def _of_dims(values: Any, rank: int, piece: Piece, neutral: int) -> list[Any]:
    every = list(values) if len(values) == rank else list(values) * rank
    return [v if d in piece.dims else neutral for d, v in enumerate(every)]
