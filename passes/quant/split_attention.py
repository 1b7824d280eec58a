"""Write attention as products and a softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import arguments


@graph_pass(assumes_finite=True)  # torch's kernels of attention differ in what they make of NaN and infinities
def split_attention(program: Program) -> None:
    """Decompose attention into softmax(Q Kᵀ · scale + mask) V, whose matrix products can be quantized.

    Vaswani et al. 2017, eq. 1. Backends have faster kernels for attention as a whole, so it is split where the backend has
    integer kernels for products, or for a quantizer of your own that annotates them. Declined with dropout, where heads
    share keys (``enable_gqa``), with a computed mask (one that leaves a row without any key gives zeros only unsplit), and
    for a causal one of dynamic length.

    before:
        %q : f32[2,4,6,16]
        %k : f32[2,4,5,16]
        %y = aten.scaled_dot_product_attention(%q, %k, %k)
        return %y
    after:
        %q : f32[2,4,6,16]
        %k : f32[2,4,5,16]
        %t = aten.transpose.int(%k, -2, -1)
        %p = aten.matmul(%q, %t)
        %s = aten.mul.Tensor(%p, 0.25)
        %a = aten.softmax.int(%s, -1)
        %y = aten.matmul(%a, %k)
        return %y
    """
    aten = torch.ops.aten
    for node in program.find("aten.scaled_dot_product_attention"):
        call = arguments(node)
        mask, reason = _mask(program, call)
        if reason is not None:
            program.skip(node, f"attention stays whole: {reason}")
            continue
        query, key, value = call["query"], call["key"], call["value"]
        scale = 1 / math.sqrt(query.meta["val"].shape[-1]) if call["scale"] is None else call["scale"]
        last = program.call(aten.transpose.int, key, -2, -1, like=node)
        last = program.call(aten.matmul.default, query, last, like=last)
        last = program.call(aten.mul.Tensor, last, scale, like=last)
        if mask is not None:
            stored = mask if isinstance(mask, fx.Node) else program.add_tensor(f"{node.name}_mask", mask, node)
            last = program.call(aten.add.Tensor, last, stored, like=last)
        last = program.call(aten.softmax.int, last, -1, like=last)
        program.replace(node, program.call(aten.matmul.default, last, value, like=last))


def _mask(program: Program, call: dict[str, Any]) -> tuple[Any, str | None]:
    """What is added to the scores, stored or to be stored, or None; and why the attention cannot be split, or None."""
    query, key = call["query"].meta["val"], call["key"].meta["val"]
    if call["dropout_p"]:
        return None, "it drops numbers at random"
    if call["enable_gqa"]:
        return None, "its heads share keys"
    if not isinstance(query.shape[-1], int):
        return None, "the size of its heads can vary"
    if call["is_causal"]:
        rows, keys = query.shape[-2], key.shape[-2]
        if not (isinstance(rows, int) and isinstance(keys, int)):
            return None, "it is causal, and its length can vary"
        return _added(torch.ones(rows, keys, dtype=torch.bool).tril(), query.dtype), None
    given = call["attn_mask"]
    if given is None:
        return None, None
    stored = program.tensor(given)
    if stored is None:
        return None, "its mask is computed"
    added = _added(stored, query.dtype)
    if not bool((added > -math.inf).any(-1).all()):
        return None, "its mask leaves a row without any key"
    return (given if stored.is_floating_point() else added), None


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An additive mask: 0 where a boolean one is true, and -inf where it is not."""
    if mask.is_floating_point():
        return mask
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -math.inf)
