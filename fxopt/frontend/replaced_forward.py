"""A module that temporarily runs another function in place of its ``forward``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def replaced_forward(module: torch.nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Inside, ``module`` runs ``function``; afterwards its former ``forward``, of its class or its own."""
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = function
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own
