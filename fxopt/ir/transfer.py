"""Between the processor and a device: the one place that moves inputs, weights and results."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch.utils import _pytree as pytree

_T = TypeVar("_T")

CPU = torch.device("cpu")
NO_FLOAT64 = {"mps"}
"""Kinds of devices without float64: what is summed in it is summed on the CPU."""


def put(value: _T, device: torch.device) -> _T:
    """The same tree with its tensors on a device; of a pinned one the copy is made while the processor goes on."""
    return _moved(value, device) if device.type != "cpu" else value


def take(value: _T) -> _T:
    """The same tree with its tensors on the CPU."""
    return _moved(value, CPU)


def _moved(value: _T, device: torch.device) -> _T:
    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.device == device:
            return leaf
        return leaf.to(device, non_blocking=leaf.device.type == "cpu" and leaf.is_pinned())

    tree: _T = pytree.tree_map(moved, value)
    return tree


def summable(value: torch.Tensor) -> torch.Tensor:
    """The tensor where float64 can be computed: where it is, or on the CPU if its device has none (``mps``)."""
    return value.cpu() if value.device.type in NO_FLOAT64 else value


_Module = TypeVar("_Module", bound=torch.nn.Module)


def place_module(module: _Module, device: torch.device) -> _Module:
    """Move the parameters and buffers of a module; an optimizer is to be made after it."""
    return module if device.type == "cpu" else module.to(device)


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Equal inputs give equal results on a device inside: kernels whose sums have one order, where torch has such."""
    if device.type == "cpu":
        yield
        return
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn: Any = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    tuned, rounded, filled = cudnn.benchmark, cudnn.allow_tf32, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.benchmark, cudnn.allow_tf32, memory.fill_uninitialized_memory = False, False, False  # filling takes time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        cudnn.benchmark, cudnn.allow_tf32, memory.fill_uninitialized_memory = tuned, rounded, filled
