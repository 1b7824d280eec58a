"""Give the heads of attentions a basis in which the weak dims come last, or in which all dims are alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_doc import Doc
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments
from fxopt.passes.common.hadamard import hadamard_basis
from fxopt.passes.lowrank.head_paths import HeadPair, head_pairs


@graph_pass(assumes_finite=True)
def rotate_heads(
    program: Program,
    *,
    basis: Annotated[
        Literal["singular", "hadamard"], Doc("Singular vectors, or a Hadamard matrix, after which all dims are alike.")
    ] = "singular",
) -> None:
    """Rotate the dims of each attention head into another basis, for pruning or for quantization.

    A head's scores are x·Wq·Wkᵀ·yᵀ, and what it adds to the output is p·y·Wv·Wo: two products of rank head dim, in which
    the basis between the factors is free. With the singular value decomposition U·S·Vᵀ of such a product, biases
    included, the factors become U·√S and √S·Vᵀ (Lin et al. 2024, "MoDeGPT", section 3.2, type III for value and output). The
    products are the same; their dims are now in the order of their contribution, and leaving the last ones out is the
    best approximation of that rank (Eckart & Young 1936). Unlike truncate_rank, which adds layers, this lets the four
    projections shrink, and the attention itself. What is left to do is

        rotate_heads, prune_channels(units=('head_dims',), ratio=0.5)

    ``basis='hadamard'`` multiplies both factors by a Hadamard matrix of the head's dims with random signs, so that no dim of
    queries, keys or values is far larger than the rest (Ashkboos et al. 2024, QuaRot, section 3, stage 1b and 1c):

        rotate_heads(basis='hadamard'), quantize

    Where a norm or rotary embedding treats the dims of a head differently, or heads that share keys or values would need
    a basis each, the attention is left with the reason. Projections may be packed.

    before:
        %x : f32[2,3,4]
        %wq = param "q.weight" : f32[4,4]
        %wk = param "k.weight" : f32[4,4]
        %q = aten.linear(%x, %wq)
        %k = aten.linear(%x, %wk)
        %t = aten.transpose.int(%k, 1, 2)
        %y = aten.matmul(%q, %t)
        return %y
    after:
        %x : f32[2,3,4]
        %wq = param "q.weight" : f32[4,4]
        %wk = param "k.weight" : f32[4,4]
        %q = aten.linear(%x, %wq)
        %k = aten.linear(%x, %wk)
        %t = aten.transpose.int(%k, 1, 2)
        %y = aten.matmul(%q, %t)
        return %y
    """
    pairs, reasons = head_pairs(program, shared=basis == "hadamard")
    for node, reason in reasons.items():
        program.skip(node, reason)
    for pair in pairs:
        _rotate(program, pair, _singular if basis == "singular" else _hadamard)


def _rotate(program: Program, pair: HeadPair, turn: Callable[[HeadPair, torch.Tensor, torch.Tensor], None]) -> None:
    """Store the factors of each head anew."""
    left = _factors(program, pair.first, False)
    right = left if pair.second is pair.first else _factors(program, pair.second, pair.inward)
    turn(pair, left, right)
    _store(program, pair.first, left, False)
    if right is not left:
        _store(program, pair.second, right, pair.inward)


def _singular(pair: HeadPair, left: torch.Tensor, right: torch.Tensor) -> None:
    """Make the singular vectors of each head's product its dims, the strongest first; factors are ``[in (+ 1), features]``."""
    for outs, others in zip(pair.left, pair.right, strict=True):
        a, b = left[:, outs], right[:, others]
        basis, upper = torch.linalg.qr(a)
        other, lower = torch.linalg.qr(b)
        u, s, vh = torch.linalg.svd(upper @ lower.mT)
        left[:, outs] = _padded(basis @ u * s.sqrt(), a.shape[1])
        right[:, others] = _padded(other @ vh.mT * s.sqrt(), b.shape[1])


def _hadamard(pair: HeadPair, left: torch.Tensor, right: torch.Tensor) -> None:
    """Make sums over all of a head's dims its dims, the same ones in each head, which may so share keys and values."""
    basis = hadamard_basis(pair.left.shape[1])
    for factor, heads in ((left, pair.left), (right, pair.right)):
        for features in heads.unique(dim=0):
            factor[:, features] = factor[:, features] @ basis


def _factors(program: Program, linear: fx.Node, inward: bool) -> torch.Tensor:
    """A linear as float64 ``[in + 1 with a bias, out]``; with ``inward``, as ``[out, in]`` without the bias."""
    call = arguments(linear)
    weight, bias = program.tensor(call["weight"]), program.tensor(call["bias"])
    assert weight is not None
    columns = weight.detach().double() if inward else weight.detach().double().T
    if inward or bias is None:
        return columns.clone()
    return torch.cat([columns, bias.detach().double()[None]])


def _store(program: Program, linear: fx.Node, columns: torch.Tensor, inward: bool) -> None:
    call = arguments(linear)
    weight, bias = program.tensor(call["weight"]), program.tensor(call["bias"])
    assert weight is not None
    if bias is not None and not inward:
        program.set_tensor(str(call["bias"].target), columns[-1].to(bias.dtype))
        columns = columns[:-1]
    program.set_tensor(str(call["weight"].target), (columns if inward else columns.T).to(weight.dtype).contiguous())


def _padded(columns: torch.Tensor, dims: int) -> torch.Tensor:
    """Zeros for the dims beyond the rank that a projection of fewer inputs than dims can have."""
    return torch.nn.functional.pad(columns, (0, dims - columns.shape[1]))
