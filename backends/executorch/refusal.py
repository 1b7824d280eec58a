"""Which ops ExecuTorch has no kernel for, known before the build starts."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import fx

from fxopt.backends.executorch.lower import quiet
from fxopt.backends.executorch.runtime import library
from fxopt.ir.decompose import decomposed
from fxopt.ir.op_table import CONVOLUTIONS, arguments, family, updates_statistics
from fxopt.ir.printer import op_name

_WAY_OUT = "replace it by other ops before the build"


def refuses(node: fx.Node) -> str | None:
    """Why the runtime has no kernel of a call; None if it has, directly or through torch's decomposition to core ops."""
    if not isinstance(node.target, torch._ops.OpOverload) or family(node) in ("check", "size", "quant"):
        return None
    name = op_name(node)
    if reason := _not_as_called(node, name):
        return reason
    try:
        missing = [op for op in decomposed(node, _decompositions()) if not _has_kernel(op)]
    except Exception as error:
        return f"ExecuTorch has no kernel of {name}, and decomposing it fails: {type(error).__name__}: {error}; {_WAY_OUT}"
    if node.target in missing:
        return f"ExecuTorch has no kernel of {name}, and torch no decomposition; {_WAY_OUT}"
    if missing:
        return (
            f"ExecuTorch has no kernel of {name}, which decomposes into {', '.join(map(str, missing))}, "
            f"without one too; {_WAY_OUT}"
        )
    return None


def _not_as_called(node: fx.Node, name: str) -> str | None:
    if updates_statistics(node):
        return (
            f"{name} is in training mode, and takes the statistics of each batch; capture the model after model.eval()"
        )
    if name.startswith("aten.conv") and arguments(node)["weight"].meta["val"].dim() == 5:
        return f"ExecuTorch's convolutions are over lines and images, {name} here is over volumes; use the backend onnx"
    return None


def _has_kernel(op: torch._ops.OpOverload) -> bool:
    return bool(_out_names(op) & _kernels())


def _out_names(op: torch._ops.OpOverload) -> set[str]:
    """The names that the runtime may know a functional op by."""
    from executorch.exir.operator.convert import to_out_variant

    packet, _, overload = str(op).removeprefix(f"{op.namespace}.").partition(".")
    for name in (packet, f"{packet}_copy"):
        found = getattr(getattr(getattr(torch.ops, op.namespace), name, None), overload, None)
        if found is None:
            continue
        try:
            out, _ = to_out_variant(found)
        except Exception:
            continue
        return {out.name()}
    return set()


@functools.cache
def _kernels() -> frozenset[str]:
    return frozenset(library()._get_operator_names())


@functools.cache
def _decompositions() -> dict[Any, Any]:
    with quiet():
        from executorch.exir.tracer import _default_decomposition_table

        return dict(_default_decomposition_table())
