"""Split layers whose weight has a low rank into chains of smaller ones."""

from __future__ import annotations

import torch

from fxopt import Program, graph_pass
from fxopt.ir.cost import counted_shapes
from fxopt.passes.common.singular_values import NOISE, numerical_rank, squares
from fxopt.passes.common.weight_modes import Core, SplitWeight
from fxopt.passes.lowrank.approximate import cp_factors
from fxopt.passes.lowrank.chain import Chain, Price, cp_pieces
from fxopt.passes.lowrank.emit_chain import emit_chain
from fxopt.passes.lowrank.find_weights import find_weights
from fxopt.passes.lowrank.tensors import cp_cores, cp_sum, product, train

_TOLERANCE = 1e-4


@graph_pass(tolerance=_TOLERANCE, assumes_finite=True)
def factorize(program: Program) -> None:
    """Split every layer whose weight has a low rank into the cheapest equivalent chain of layers.

    A linear, or a product with a stored matrix, becomes two; an embedding a smaller one and a product; a convolution,
    grouped, strided, dilated and transposed ones too, up to four: 1x1 layers for the channels, and the kernel's dims
    apart or together. The ranks are those of the weight as a matrix between any two of its modes, however they came
    about: truncate_rank, a penalty in training, zeros; passes/lowrank/split_weight has the papers. A CP form is taken
    where truncate_rank has left its factors in this program, and they still multiply to the weight; a file does not keep
    them.

    A layer is split where the chain has fewer multiply-accumulates; an embedding, where it has fewer elements. Others are
    left with the reason. A weight that several layers read is split once for all of them.

    The tolerance is 1e-4, that of weights rounded to their own precision: a weight of rank r that was stored in float32 has
    no singular values that are exactly zero. The last ones amount to 6e-8 of the weight's norm; up to 1e-6 counts as rounding,
    and the part of no input or output channel may change by more than 1e-4 of itself.

    Raises PassError for a program that is quantized, UsageError where tensorly is not installed.

    before:
        %x : f32[2,3]
        %w = param "fc.weight" : f32[3,3] = [[1, 2, 3], [2, 4, 6], [-1, -2, -3]]
        %b = param "fc.bias" : f32[3] = [1, 2, 3]
        %y = aten.linear(%x, %w, %b)
        return %y
    after:
        %x : f32[2,3]
        %v = param "fc.weight_0" : f32[1,3]
        %h = aten.linear(%x, %v)
        %u = param "fc.weight_1" : f32[3,1]
        %b = param "fc.bias" : f32[3] = [1, 2, 3]
        %y = aten.linear(%h, %u, %b)
        return %y
    """
    shape = counted_shapes(program)
    plans = []
    for weight in find_weights(program):
        found = _cores(program, weight, Price(weight, shape))
        if isinstance(found, str):
            program.skip(weight.readers[0], found)
        else:
            plans.append((weight, found))
    for weight, cores in plans:
        emit_chain(program, weight, cores)


def _cores(program: Program, weight: SplitWeight, price: Price) -> list[Core] | str:
    """The layers of the cheapest chain, or the reason why the weight is left."""
    canonical = weight.canonical()
    if not bool(canonical.isfinite().all()):
        return f"the weight {weight.names[0]!r} holds NaN or infinity"
    if not bool(canonical.any()):
        return "its weight is zero"
    ranks = {cut: numerical_rank(squares(canonical, cut)) for cut in range(1, len(weight.modes))}
    chain, dense = price.cheapest(ranks), price.size(Chain().pieces(weight))
    size = price.size(chain.pieces(weight))
    factors = cp_factors(program, weight)
    if factors is not None and price.size(cp_pieces(weight, factors[0].shape[1])) < min(size, dense):
        if _same(canonical, cp_sum(factors)[None]):
            return cp_cores(weight, factors)
        program.skip(weight.readers[0], "its weight is no longer the CP form that it was given")
    if not chain.cuts:
        low = {cut: rank for cut, rank in ranks.items() if rank < weight.full(cut)}
        if not low:
            return "its rank is full"
        return f"a chain of the ranks that it has, {', '.join(map(str, low.values()))}, would not be smaller"
    cores = train(weight, canonical, chain)
    if not _same(canonical, product(weight, cores)):
        return "what a low rank would lose is little beside its weight, but not beside the weakest of its channels"
    return cores


def _same(canonical: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether tensors ``[groups, *modes]`` differ by rounding alone, for every input and output channel too."""
    lost = other - canonical
    if bool(lost.norm() > NOISE * canonical.norm()):
        return False
    ends = ((lost.flatten(2), canonical.flatten(2), 2), (lost.flatten(1, -2), canonical.flatten(1, -2), 1))
    return all(bool((a.norm(dim=d) <= _TOLERANCE * b.norm(dim=d)).all()) for a, b, d in ends)
