"""Give streams a mean of zero, so that the layer norms that read them are RMS norms."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_doc import Doc
from annotated_types import Ge
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.passes.stream.channels import is_norm_over, sizes, width_of
from fxopt.passes.stream.find_stream import Stream, find_stream
from fxopt.passes.stream.fold_affine import affine_readers, fold_affine, has_affine
from fxopt.passes.stream.layers import WeightChanges, applied
from fxopt.passes.stream.matrices import MatrixBudget, insert_matrix

aten = torch.ops.aten
_NORM = "aten.layer_norm"


@graph_pass(assumes_finite=True)
def center_stream(
    program: Program,
    *,
    matrices: Annotated[float, Ge(0), Doc("Share of the MACs that inserted matrices may cost.")] = 0.05,
) -> None:
    """Leave out the mean of a stream in what writes it, so that its layer norms become RMS norms.

    A layer norm gives the same whatever is added to all channels. Where layer norms alone read a stream, its mean over the
    channels may therefore be left out from the start: of the weights and biases of the layers that write into it, and of
    the tables and tokens that are added (Ashkboos et al. 2024, SliceGPT, section 3.2). The norms' weights and biases go into
    the layers that read them, where all of these can take them; otherwise they stay as a weight and a sum.

    A value that no stored weight makes, such as what another norm gives, gets a matrix that subtracts the mean, as far as
    these cost no more than ``matrices`` of the program's MACs. A norm that is left has its reason reported.

    before:
        %x : f32[2,4]
        %w = param "up.weight" : f32[3,4]
        %g = param "norm.weight" : f32[3]
        %b = param "norm.bias" : f32[3]
        %v = param "down.weight" : f32[2,3]
        %h = aten.linear(%x, %w)
        %n = aten.layer_norm(%h, [3], %g, %b, 1e-05)
        %y = aten.linear(%n, %v)
        return %y
    after:
        %x : f32[2,4]
        %w = param "up.weight" : f32[3,4]
        %h = aten.linear(%x, %w)
        %n = aten.rms_norm(%h, [3], None, 1e-05)
        %v = param "down.weight" : f32[2,3]
        %c = param "down.bias" : f32[2]
        %y = aten.linear(%n, %v, %c)
        return %y
    """
    budget = MatrixBudget(program, matrices)
    done: set[fx.Node] = set()
    centered: list[fx.Node] = []
    for norm in program.find(_NORM):
        channels = width_of(norm)
        if norm in done:
            continue
        if channels is None:
            program.skip(norm, "it is over several dims at once")
            continue
        value = arguments(norm)["input"]
        stream = find_stream(program, (value, len(sizes(value)) - 1), channels)
        norms = [
            norm,
            *(reader for reader, _ in stream.readers if is_norm_over(reader, _NORM, channels) and reader is not norm),
        ]
        done |= set(norms)
        reason = _declined(program, stream, norm) or budget.refuses([f[0] for f in stream.foreign], channels)
        if reason:
            for each in norms:
                program.skip(each, reason)
            continue
        _center(program, stream)
        centered += norms
    for norm in centered:  # a matrix that was inserted may take the weight of the norm before it
        _to_rms_norm(program, norm, width_of(norm) or 0)


def _declined(program: Program, stream: Stream, norm: fx.Node) -> str | None:
    """Why the mean of a stream cannot be left out."""
    if reason := stream.why_broken(norm):
        return reason
    for reader, value in stream.readers:
        if not is_norm_over(reader, _NORM, stream.channels):
            name = op_name(reader) if reader.op == "call_function" else "an output of the model"
            return f"{name} reads %{value.name} of its stream, the mean included (%{reader.name})"
    for value, reader, dim in stream.foreign:
        if dim != len(sizes(value)) - 1 or sizes(value)[dim] != stream.channels:
            return f"%{value.name} comes into its stream (%{reader.name}), made by {_maker(value)}, which mixes no channels"
    return None


def _maker(node: fx.Node) -> str:
    return op_name(node) if node.op == "call_function" else "an input of the model"


def _center(program: Program, stream: Stream) -> None:
    n = stream.channels
    without_mean = torch.eye(n, dtype=torch.float64) - 1 / n
    changes = WeightChanges(program)
    for held in stream.weights:
        changes.ask(held, ("center", n), applied(without_mean, held.dim))
    changes.apply()
    for value, reader, _ in stream.foreign:
        insert_matrix(program, value, [reader], without_mean, f"{reader.name}_without_mean")


def _to_rms_norm(program: Program, norm: fx.Node, channels: int) -> None:
    """The norm without the mean, with as little of its affine part as is left by its readers."""
    scales, shifts = has_affine(program, norm)
    if scales or shifts:
        stored = all(program.tensor(n) is not None for n in norm.all_input_nodes[1:])
        readers = affine_readers(program, norm, channels, shifted=shifts)
        if isinstance(readers, list) and stored:
            fold_affine(program, norm, readers)
            scales = shifts = False
    call = arguments(norm)
    with program.graph.inserting_before(norm):
        made = program.graph.call_function(
            aten.rms_norm.default, (call["input"], [channels], call["weight"] if scales else None, call["eps"])
        )
        made.meta.update({k: norm.meta[k] for k in ("stack_trace", "val") if k in norm.meta})
        if shifts:
            made = program.graph.call_function(aten.add.Tensor, (made, call["bias"]))
            made.meta.update({k: norm.meta[k] for k in ("val",) if k in norm.meta})
    program.replace(norm, made)
