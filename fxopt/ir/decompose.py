"""Decomposition of an op, for a backend that cannot lower it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from fxopt.ir.op_table import family

_TRACED = (torch.Tensor, torch.SymInt)
"""What a trace must know the origin of; other arguments are constants."""


def decomposed(node: fx.Node, decompositions: dict[Any, Any]) -> list[Any]:
    """The ops that a call decomposes into by a table, found by running it on fake tensors.

    Raises whatever the run raises.
    """
    args, kwargs = pytree.tree_map_only(fx.Node, lambda n: n.meta["val"], (node.args, dict(node.kwargs)))
    leaves, spec = pytree.tree_flatten((args, kwargs))
    inputs = [leaf for leaf in leaves if isinstance(leaf, _TRACED)]

    def call(*given: Any) -> Any:
        rest = iter(given)
        some = [next(rest) if isinstance(leaf, _TRACED) else leaf for leaf in leaves]
        some_args, some_kwargs = pytree.tree_unflatten(some, spec)
        return node.target(*some_args, **some_kwargs)  # type: ignore[operator]

    traced = make_fx(call, decomposition_table=decompositions)(*inputs)
    calls = [n.target for n in traced.graph.nodes if n.op == "call_function" and family(n) not in ("check", "size")]
    return [target for target in dict.fromkeys(calls) if isinstance(target, torch._ops.OpOverload)]
