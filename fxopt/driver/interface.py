"""The interface of an artifact, for its manifest: inputs, outputs, their nesting and dynamic dims."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxopt.backend.manifest import ConstantInput, Interface, Output, TensorInput
from fxopt.errors import BackendError
from fxopt.ir.program import Program
from fxopt.numerics.module_state import copied
from fxopt.runtime import treespec

_FOREIGN = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
"""Dtypes that numpy does not have."""


def interface(program: Program) -> Interface:
    """Inputs, outputs and their nesting, for a manifest. Raises BackendError for values that an artifact cannot have."""
    dims = program.dims()
    args, kwargs = copied((program.args, program.kwargs))  # a model may write into its inputs
    leaves, in_tree = treespec.describe([list(args), kwargs], lambda v: not isinstance(v, (list, tuple, dict)))
    inputs = [_input(node, leaf, dims) for node, leaf in zip(program.inputs(), leaves, strict=True)]
    try:
        outputs, out_tree = treespec.describe(program(*args, **kwargs), lambda v: isinstance(v, torch.Tensor))
    except TypeError as error:
        raise BackendError(
            f"the model returns something that an artifact cannot hold: {error}\n  {program.signature()}",
            way_out="return tensors, nested in tuples, lists or dicts",
        ) from None
    for value in [*leaves, *outputs]:
        if isinstance(value, torch.Tensor) and value.dtype in _FOREIGN:
            raise BackendError(
                f"an artifact takes and gives arrays of numpy, which has no {_dtype(value)}\n  {program.signature()}",
                way_out="cast to float32 at the inputs and outputs of the model",
            )
    types = [Output(dtype=_dtype(t), example=list(t.shape)) for t in outputs]
    ranges: dict[str, tuple[int | None, int | None]] = {
        name: program.ranges.get(symbol, (0, None)) for symbol, name in dims.items()
    }
    return Interface(inputs=inputs, in_tree=in_tree, outputs=types, out_tree=out_tree, dims=ranges)


def _input(node: fx.Node, leaf: Any, dims: dict[str, str]) -> TensorInput | ConstantInput:
    name = str(node.target)
    if not isinstance(leaf, torch.Tensor):
        return ConstantInput(name=name, constant=leaf)
    shape = [n if isinstance(n, int) else dims.get(str(n), str(n)) for n in node.meta["val"].shape]
    return TensorInput(name=name, shape=shape, example=list(leaf.shape), dtype=_dtype(leaf))


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
