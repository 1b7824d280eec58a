"""Which ops TVM's importer has no form of, known before the build starts."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import fx

from fxopt.backends.tvm.frontend.from_program import known_ops
from fxopt.ir.decompose import decomposed
from fxopt.ir.op_table import family, lookup
from fxopt.ir.printer import op_name


def refuses(node: fx.Node) -> str | None:
    """Why the importer has no form of a call; None if it has, directly or through torch's decomposition to core ops."""
    if not isinstance(node.target, torch._ops.OpOverload) or family(node) in ("check", "size"):
        return None
    if (row := lookup(node)) is not None and row.family == "recurrent":
        return (
            f"TVM has no loop over the steps of {op_name(node)}, and their number is dynamic or they drop at random; "
            "capture the model in evaluation with a fixed number of steps, or use the backend onnx"
        )
    known, name = _known(), op_name(node)
    if _spelled(node.target) in known:
        return None
    way_out = "replace it by other ops before the build"
    try:
        missing = [op for op in decomposed(node, _decompositions()) if _spelled(op) not in known]
    except Exception as error:
        return f"TVM has no form of {name}, and decomposing it fails: {type(error).__name__}: {error}; {way_out}"
    if node.target in missing:
        return f"TVM has no form of {name}, and torch no decomposition; {way_out}"
    if missing:
        return f"TVM has no form of {name}, and it decomposes into {', '.join(map(str, missing))}, without one too; {way_out}"
    return None


def _spelled(op: torch._ops.OpOverload) -> str:
    return str(op.__name__)


@functools.cache
def _known() -> frozenset[str]:
    return known_ops()


@functools.cache
def _decompositions() -> dict[torch._ops.OperatorBase, Callable[..., object]]:
    return dict(torch.export.default_decompositions())
