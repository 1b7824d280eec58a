"""A layer refitted by least squares, from its input and target output."""

from __future__ import annotations

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.program import Program
from fxopt.passes.common.layer_rows import layer_of
from fxopt.passes.refit.normal_equations import NormalEquations

_ROWS = 8192
_RIDGE = 1e-6


def fit(block: Program, node: fx.Node, read: torch.Tensor, want: torch.Tensor) -> None:
    """Give a layer the weight and bias with the least squared error of ``want`` for its input, on random positions.

    A ridge keeps them near the present ones where the data do not determine them. Where the result is not finite, nothing
    changes.
    """
    call = arguments(node)
    layer = layer_of(node, call["weight"])
    weight = block.tensor(call["weight"])
    assert not isinstance(layer, str)
    assert weight is not None
    bias = block.tensor(layer.bias)
    now = node.target(*_values(block, node, read))  # type: ignore[operator]
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    x, wanted = layer.rows(read, want, _ROWS, generator)
    generator.set_state(state)
    _, given = layer.rows(read, now, _ROWS, generator)
    x = x.flatten(2).double()
    lack = (wanted - given).double().transpose(0, 1)
    equations = NormalEquations(len(x), x.shape[2], lack.shape[2])
    equations.add(x, lack)
    free = torch.ones_like(equations.cross, dtype=torch.bool)
    free[:, -1] = bias is not None
    change = equations.solved(free, _RIDGE)
    if not bool(change.isfinite().all()):
        return
    matrix = layer.matrix(weight.detach().double())
    moved = matrix + change[:, :-1].mT.reshape(matrix.shape)
    block.set_tensor(str(call["weight"].target), layer.stored(moved, weight))
    if bias is not None:
        assert layer.bias is not None
        block.set_tensor(str(layer.bias.target), bias.detach() + change[:, -1].flatten().to(bias.dtype))


def _values(block: Program, node: fx.Node, read: torch.Tensor) -> list[object]:
    """The arguments of a layer, with ``read`` as its input."""
    call = arguments(node)
    stored = {name: block.tensor(value) for name, value in call.items()}
    with_weights = [value if stored[name] is None else stored[name].detach() for name, value in call.items()]  # type: ignore[union-attr]
    return [read, *with_weights[1:]]


def output_of(block: Program, node: fx.Node, read: torch.Tensor) -> torch.Tensor:
    """A layer's output for an input, without gradients."""
    with torch.no_grad():
        value: torch.Tensor = node.target(*_values(block, node, read))  # type: ignore[operator]
    return value
