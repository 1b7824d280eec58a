"""Zero chosen atoms: in the weights of their consumers or, where two computed values are contracted, of their producers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxopt import Program
from fxopt.ir.op_table import family
from fxopt.ir.printer import op_name
from fxopt.passes.common.weight_value import weight_value
from fxopt.passes.prune.coupling import axes as ax
from fxopt.passes.prune.coupling.sweep import Sweep


def zero(program: Program, sweep: Sweep, dead: NDArray[np.bool_]) -> None:
    """Zero the elements of the program's weights that depend on an atom for which ``dead[atom]``.

    ``sweep`` is of a program with the same nodes. The consumers' weights are zeroed along their contraction dim. Where only
    computed values are contracted, as query and key in attention, the producers' are: weights, biases and scales.
    """
    weights = program.tensors()
    names: dict[int, str] = {}  # one name for a tied weight
    for name, tensor in weights.items():
        names.setdefault(id(tensor), name)
    changed: dict[str, torch.Tensor] = {}

    def multiply(tensor: torch.Tensor, mask: torch.Tensor) -> None:
        name = names[id(tensor)]
        changed[name] = changed.get(name, tensor).detach() * mask.to(tensor.dtype)

    producers = np.zeros_like(dead)
    for contraction in sweep.contractions:
        rows = sweep.resolve(contraction.rows)
        gone = dead[rows].any(1)
        if not gone.any():
            continue
        found = program.tensor(contraction.weight)
        if found is None or contraction.spread is None:
            producers[rows[gone]] = True
        else:
            multiply(found, contraction.spread(torch.from_numpy(~gone)))
    if (producers := producers & dead).any():
        for tensor, mask in _produced(program, sweep, producers):
            multiply(tensor, mask)
    program.set_tensors(changed)


def check_computed_weights(program: Program, sweep: Sweep, who: str) -> None:
    """Raise PassError where a layer's weight is computed from zeroed elements, and is no longer finite.

    A weight norm divides by the length of each row, which is zero now.
    """
    layers = [node for node in program.graph.nodes if family(node) == "contraction" and node in sweep.computed]
    for layer in layers:
        for weight in layer.all_input_nodes:
            stored = weight.op == "get_attr" or weight in sweep.computed
            if not stored and not bool(weight_value(program, weight).isfinite().all()):
                raise program.fail(
                    layer,
                    f"{who}: its weight is computed by {op_name(weight)}, which divides by what was zeroed",
                    way_out="fold_constants first, which stores the weights that parametrizations compute",
                )


def _produced(program: Program, sweep: Sweep, dead: NDArray[np.bool_]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Weights with masks on the dims that are not contracted."""
    summed = {(c.weight, c.dim) for c in sweep.contractions}
    for node in program.graph.nodes:
        tensor = program.tensor(node)
        if tensor is None or not tensor.is_floating_point() or _is_statistic(node):
            continue
        for dim, axis in enumerate(sweep.of(node)):
            rows = ax.rows_of(axis)
            if ax.is_fixed(axis) or rows is None or (node, dim) in summed:
                continue
            gone = dead[sweep.resolve(rows)].any(1)
            if gone.any():
                shape = [-1 if i == dim else 1 for i in range(tensor.dim())]
                yield tensor, torch.from_numpy(~gone).reshape(shape)


def _is_statistic(node: fx.Node) -> bool:
    """Whether it is the running mean or variance of a batch norm, which must not change."""
    return any(op_name(user) == "aten.batch_norm" and node in user.args[3:5] for user in node.users)
