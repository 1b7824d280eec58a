"""Rotate the residual streams of a model into their principal components, or so that all channels are alike."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from annotated_doc import Doc
from annotated_types import Ge
from torch import fx

from fxopt import Context, Program, graph_pass
from fxopt.ir.op_table import arguments
from fxopt.passes.common.hadamard import hadamard_basis
from fxopt.passes.stream.channels import is_norm_over, sizes, width_of
from fxopt.passes.stream.find_stream import Stream, find_stream
from fxopt.passes.stream.fold_affine import affine_readers, fold_affine, has_affine
from fxopt.passes.stream.layers import Read, WeightChanges, applied, read_by
from fxopt.passes.stream.matrices import MatrixBudget, insert_matrix
from fxopt.passes.stream.principal import principal_components
from fxopt.support.options import With

aten = torch.ops.aten
_NORM = "aten.rms_norm"


@graph_pass(assumes_finite=True)
def rotate_stream(
    program: Program,
    context: Context,
    *,
    matrices: Annotated[float, Ge(0), Doc("Share of the MACs that inserted matrices may cost.")] = 0.05,
    basis: Annotated[
        Literal["principal", "hadamard"], Doc("Principal components, or a Hadamard matrix, which needs no data.")
    ] = "principal",
    samples: Annotated[
        int, Ge(1), With(basis="principal"), Doc("Training examples whose principal components are taken.")
    ] = 64,
) -> None:
    """Rotate each stream of RMS norms into another basis, for pruning or for quantization.

    An RMS norm commutes with a rotation: norm(Q x) = Q norm(x). So every weight that writes a stream can be multiplied by an
    orthogonal matrix from the left, and every weight that reads it by its transpose from the right, and the model computes
    what it did (Ashkboos et al. 2024, SliceGPT, section 3.1). Q are the principal components of what the norms give, over
    ``samples`` training examples, the strongest first; a few channels then hold most of the signal, and the weak ones can go:

        layer_norm_to_rms_norm, rotate_stream, prune_channels(by='wanda', macs=0.5)

    ``basis='hadamard'`` does the opposite, for quantization: each new channel is a sum over the old ones with random signs, so
    that no channel is far larger than the rest (Ashkboos et al. 2024, QuaRot, section 3). It needs no data. What to do is then

        layer_norm_to_rms_norm, rotate_stream(basis='hadamard'), quantize

    The weights of the norms go into the layers that read them. A value that no stored weight makes, or that is read by
    something else than a layer, as an output of the model, is multiplied by a matrix of its own, as far as these cost no more
    than ``matrices`` of the program's MACs. Streams that share a table of embeddings get one basis. A stream that is left has
    its reason reported. Raises DataError without usable data.

    before:
        %x : f32[2,4]
        %w = param "up.weight" : f32[3,4]
        %g = param "norm.weight" : f32[3]
        %v = param "down.weight" : f32[2,3]
        %h = aten.linear(%x, %w)
        %n = aten.rms_norm(%h, [3], %g, 1e-05)
        %y = aten.linear(%n, %v)
        return %y
    after:
        %x : f32[2,4]
        %w = param "up.weight" : f32[3,4]
        %v = param "down.weight" : f32[2,3]
        %h = aten.linear(%x, %w)
        %n = aten.rms_norm(%h, [3], None, 1e-05)
        %y = aten.linear(%n, %v)
        return %y
    """
    streams = _rotatable(program, MatrixBudget(program, matrices))
    if not streams:
        return
    basis_of = _joined(program, [found.stream for found in streams])
    norms: dict[int, list[fx.Node]] = {}
    for number, found in zip(basis_of, streams, strict=True):
        norms.setdefault(number, []).extend(found.norms)
    if basis == "hadamard":
        bases = {number: hadamard_basis(width_of(found[0]) or 0) for number, found in norms.items()}
    else:
        bases = principal_components(program, context.workload, norms, samples, "rotate_stream")
    changes = WeightChanges(program)
    for number, found in zip(basis_of, streams, strict=True):
        for held in (*found.stream.weights, *(read.held for read in found.layers)):
            changes.ask(held, ("rotate", number), applied(bases[number], held.dim))
    changes.apply()
    for number, found in zip(basis_of, streams, strict=True):
        _insert(program, found, bases[number])


@dataclass(eq=False)
class _Found:
    """A stream with what is to be done: layers that read it, values that leave it elsewhere, norms that keep a weight."""

    stream: Stream
    norms: list[fx.Node]
    layers: list[Read] = field(default_factory=list)
    leaving: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)
    weighted: list[fx.Node] = field(default_factory=list)


def _rotatable(program: Program, budget: MatrixBudget) -> list[_Found]:
    """The streams to rotate, each with its norms; the weights of norms are folded where they can be."""
    norms = [norm for norm in program.find(_NORM) if width_of(norm)]
    for norm in norms:
        readers = affine_readers(program, norm, width_of(norm) or 0, shifted=False)
        if (
            isinstance(readers, list)
            and has_affine(program, norm)[0]
            and program.tensor(arguments(norm)["weight"]) is not None
        ):
            fold_affine(program, norm, readers)
    done: set[fx.Node] = set()
    streams: list[_Found] = []
    for norm in norms:
        if norm in done:
            continue
        value, channels = arguments(norm)["input"], width_of(norm)
        assert channels is not None
        stream = find_stream(program, (value, len(sizes(value)) - 1), channels, lambda n, c=channels: _is_bare(n, c))  # type: ignore[misc]
        found = _sorted(program, stream)
        found.norms = [norm] if norm not in found.norms else found.norms
        done |= set(found.norms)
        reason = _declined(found, norm)
        reason = reason or budget.refuses([*(f[0] for f in stream.foreign), *found.leaving, *found.weighted], channels)
        if reason is None:
            streams.append(found)
            continue
        for each in found.norms:
            program.skip(each, reason)
    return streams


def _is_bare(node: fx.Node, channels: int) -> bool:
    return is_norm_over(node, _NORM, channels) and arguments(node)["weight"] is None


def _sorted(program: Program, stream: Stream) -> _Found:
    found = _Found(stream, [value for value in stream.values if is_norm_over(value, _NORM, stream.channels)])
    for reader, value in stream.readers:
        if (read := read_by(program, reader, value, stream.values[value])) is not None:
            found.layers.append(read)
        elif is_norm_over(reader, _NORM, stream.channels) and program.tensor(arguments(reader)["weight"]) is not None:
            found.weighted.append(reader)
            found.norms.append(reader)
        else:
            found.leaving.setdefault(value, []).append(reader)
    return found


def _declined(found: _Found, norm: fx.Node) -> str | None:
    """Why a stream stays in its basis."""
    stream = found.stream
    if reason := stream.why_broken(norm):
        return reason
    if not found.layers:
        return "no layer reads its stream with a stored weight: another basis would be of no use"
    for value, reader, dim in (*stream.foreign, *((v, r[0], stream.values[v]) for v, r in found.leaving.items())):
        if dim != len(sizes(value)) - 1 or sizes(value)[dim] != stream.channels:
            return f"%{reader.name} reads %{value.name} as it is, of which dim {dim} holds the channels, not the last"
    return None


def _joined(program: Program, streams: list[Stream]) -> list[int]:
    """For each stream the number of its basis: that of the first stream with which it shares a stored weight."""
    numbers = list(range(len(streams)))
    held = [{id(program.tensor(h.weight)) for h in stream.weights} for stream in streams]
    for i, stream in enumerate(streams):
        for j in range(i):
            if held[i] & held[j] and streams[j].channels == stream.channels and numbers[i] != numbers[j]:
                old, new = max(numbers[i], numbers[j]), min(numbers[i], numbers[j])
                numbers = [new if n == old else n for n in numbers]
    return numbers


def _insert(program: Program, found: _Found, basis: torch.Tensor) -> None:
    """Insert the matrices that lead into a stream's basis, and out of it."""
    for value, reader, _ in found.stream.foreign:
        insert_matrix(program, value, [reader], basis, f"{reader.name}_rotated")
    for value, readers in found.leaving.items():
        insert_matrix(program, value, readers, basis.T, f"{value.name}_as_it_was")
    for norm in found.weighted:
        weight = program.tensor(arguments(norm)["weight"])
        assert weight is not None
        users = list(norm.users)
        norm.args = (norm.args[0], [found.stream.channels], None, arguments(norm)["eps"])
        insert_matrix(program, norm, users, weight.detach().double()[:, None] * basis.T, f"{norm.name}_as_it_was")
