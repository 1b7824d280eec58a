"""Copies of a program that share its weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch

from fxopt.ir.alias_analysis import state_of
from fxopt.ir.program import Program


def shared_copy(program: Program, instead: Mapping[int, torch.Tensor] = MappingProxyType({})) -> Program:
    """A copy as of :meth:`Program.copy` that has the same memory for all weights but those that a run may write into.

    It is for a copy that is not trained: nothing else changes a weight in place. ``instead`` is as there.
    """
    state = state_of(program)
    return program.copy({id(t): _view(t) for t in program.tensors().values() if id(t) not in state} | dict(instead))


def _view(tensor: torch.Tensor) -> torch.Tensor:
    view = tensor.detach()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(view, tensor.requires_grad)
    return view.requires_grad_(tensor.requires_grad)
