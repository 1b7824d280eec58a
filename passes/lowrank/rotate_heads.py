"""Give the heads of attentions a basis in which the weak dims come last."""

from __future__ import annotations

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments
from fxopt.passes.lowrank.head_paths import HeadPair, head_pairs


@graph_pass(assumes_finite=True)
def rotate_heads(program: Program) -> None:
    """Rotate the dims of each attention head into singular vectors, so that the weak ones can be pruned.

    A head's scores are x·Wq·Wkᵀ·yᵀ, and what it adds to the output is p·y·Wv·Wo: two products of rank head dim, in which
    the basis between the factors is free. With the singular value decomposition U·S·Vᵀ of such a product, biases
    included, the factors become U·√S and √S·Vᵀ (Lin et al. 2024, "MoDeGPT", section 3.2, type III for value and output). The
    products are the same; their dims are now in the order of their contribution, and leaving the last ones out is the
    best approximation of that rank (Eckart & Young 1936). Unlike truncate_rank, which adds layers, this lets the four
    projections shrink, and the attention itself. What is left to do is

        rotate_heads, prune_channels(units=('head_dims',), ratio=0.5)

    Where a norm or rotary embedding treats the dims of a head differently, or heads share keys or values, the attention is
    left with the reason. Projections may be packed.

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
    pairs, reasons = head_pairs(program)
    for node, reason in reasons.items():
        program.skip(node, reason)
    for pair in pairs:
        _rotate(program, pair)


def _rotate(program: Program, pair: HeadPair) -> None:
    """Store the factors of each head anew."""
    left = _factors(program, pair.first, False)
    right = left if pair.second is pair.first else _factors(program, pair.second, pair.inward)
    for outs, others in zip(pair.left, pair.right, strict=True):
        a, b = left[:, outs], right[:, others]  # [in (+ 1), dims] of the head
        basis, upper = torch.linalg.qr(a)
        other, lower = torch.linalg.qr(b)
        u, s, vh = torch.linalg.svd(upper @ lower.mT)
        left[:, outs], right[:, others] = (
            _padded(basis @ u * s.sqrt(), a.shape[1]),
            _padded(other @ vh.mT * s.sqrt(), b.shape[1]),
        )
    _store(program, pair.first, left, False)
    if right is not left:
        _store(program, pair.second, right, pair.inward)


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
