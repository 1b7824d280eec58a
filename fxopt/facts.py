"""What a report and a manifest hold, as plain values: the interface, costs, what each step did."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxopt import tree
from fxopt.agreement import copied
from fxopt.cost import Cost
from fxopt.errors import BackendError
from fxopt.pipeline import StepResult
from fxopt.program import Program

_FOREIGN = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
"""Dtypes that numpy does not have."""


def interface(program: Program) -> dict[str, Any]:
    """Inputs, outputs and their nesting, for a manifest. Raises BackendError for what an artifact cannot hold."""
    dims = program.dims()
    args, kwargs = copied((program.args, program.kwargs))  # a model may write into its inputs
    leaves, in_tree = tree.describe([list(args), kwargs], lambda v: not isinstance(v, (list, tuple, dict)))
    inputs = [_input(node, leaf, dims) for node, leaf in zip(program.inputs(), leaves, strict=True)]
    try:
        outputs, out_tree = tree.describe(program(*args, **kwargs), lambda v: isinstance(v, torch.Tensor))
    except TypeError as error:
        raise BackendError(
            f"the model returns something that an artifact cannot hold: {error}\n  {program.signature()}\n"
            "  return tensors, nested in tuples, lists or dicts"
        ) from None
    for value in [*leaves, *outputs]:
        if isinstance(value, torch.Tensor) and value.dtype in _FOREIGN:
            raise BackendError(
                f"an artifact takes and gives arrays of numpy, which has no {_dtype(value)}\n  {program.signature()}\n"
                "  cast to float32 at the inputs and outputs of the model"
            )
    types = [{"dtype": _dtype(t), "example": list(t.shape)} for t in outputs]
    ranges = {name: list(program.ranges.get(symbol, (0, None))) for symbol, name in dims.items()}
    return {"inputs": inputs, "in_tree": in_tree, "outputs": types, "out_tree": out_tree, "dims": ranges}


def _input(node: fx.Node, leaf: Any, dims: dict[str, str]) -> dict[str, Any]:
    name = str(node.target)
    if not isinstance(leaf, torch.Tensor):
        return {"name": name, "constant": leaf}
    shape = [n if isinstance(n, int) else dims.get(str(n), str(n)) for n in node.meta["val"].shape]
    return {"name": name, "shape": shape, "example": list(leaf.shape), "dtype": _dtype(leaf)}


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def cost_dict(cost: Cost) -> dict[str, Any]:
    """MACs, parameters and bytes of weights."""
    values: dict[str, Any] = {"macs": cost.macs, "parameters": cost.parameters, "weight_bytes": cost.bytes}
    return values | ({"ops_not_counted": list(cost.unknown)} if cost.unknown else {})


def step_dict(step: StepResult) -> dict[str, Any]:
    """A step's result as plain values; infinite figures as the text ``inf``."""
    return {
        "pass": step.text,
        "kind": step.kind,
        "part_of": step.part_of,
        "changed": step.changed,
        "skips": [{"node": s.node, "source": s.source, "reason": s.reason} for s in step.skips],
        "choices": [{"what": c.what, "value": plain(c.value), "why": c.why} for c in step.choices],
        "delta": cost_dict(step.delta) if step.delta else None,
        "seconds": round(step.seconds, 3),
        **{key: plain(value) for key, value in step.findings.items()},
    }


def plain(value: Any) -> Any:
    """A number as JSON can hold it."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
