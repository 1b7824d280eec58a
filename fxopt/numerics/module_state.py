"""Modules run in evaluation mode without side effects: modes, buffers and the random state are restored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree


def evaluate(module: torch.nn.Module) -> torch.nn.Module:
    """Set evaluation mode and return the module; an exported graph in it keeps the mode that it was exported in."""
    try:
        return module.eval()
    except NotImplementedError:  # from the exported graph, maybe before others had their turn
        for part in module.modules():
            part.training = False
        return module


@contextlib.contextmanager
def unchanged(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule's mode, buffers and the random state are restored.

    torch's fast path for transformers is off inside: it writes zeros to padded rows, which no exported graph does.
    """
    modules = list(module.modules())
    modes = [m.training for m in modules]
    buffers = [{name: (b, b.detach().clone()) for name, b in m._buffers.items() if b is not None} for m in modules]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        evaluate(module)
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for m, mode, saved in zip(modules, modes, buffers, strict=True):
            m.training = mode
            for name, (buffer, value) in saved.items():
                m._buffers[name] = buffer
                with torch.no_grad():
                    buffer.copy_(value)


def copied(value: Any) -> Any:
    """The same tree with copies of its tensors, for a module that may write into its inputs."""
    return pytree.tree_map(lambda v: v.detach().clone() if isinstance(v, torch.Tensor) else v, value)


def dense(value: Any) -> Any:
    """The same tree with copies of the tensors that are parts of larger ones.

    ``torch.export`` would take the size of the larger tensor, which stands in the strides, for one that no input may have.
    """

    def whole(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()  # keeps the strides of a tensor that is whole, channels last included
        return tensor if copy.stride() == tensor.stride() else copy

    return pytree.tree_map(lambda v: whole(v) if isinstance(v, torch.Tensor) else v, value)
