"""The value of a node that depends on weights alone."""

from __future__ import annotations

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.program import Program


def weight_value(program: Program, node: fx.Node) -> torch.Tensor:
    """The value of a node that depends on weights alone."""
    values: dict[fx.Node, torch.Tensor] = {}

    def value(at: fx.Node) -> torch.Tensor:
        if at not in values:
            tensor = program.tensor(at)
            if tensor is None:
                args, kwargs = pytree.tree_map(
                    lambda a: value(a) if isinstance(a, fx.Node) else a, (at.args, at.kwargs)
                )
                with torch.no_grad():
                    tensor = at.target(*args, **kwargs)  # type: ignore[operator]
            values[at] = tensor
        return values[at]

    return value(node).detach()


def is_weight(node: fx.Node) -> bool:
    """Whether a node is a stored tensor, or is computed from stored tensors alone."""
    todo = [node]
    while todo:
        at = todo.pop()
        if at.op != "get_attr" and (at.op != "call_function" or not at.all_input_nodes):
            return False
        todo += at.all_input_nodes
    return True
