"""The backend interface, and what a backend tells passes about its kernels. No module here imports torch.

May import ``target`` and ``support``, and ``ir`` inside functions.
Offers :class:`fxopt.Backend`, :data:`Runner`, :class:`Policy` and :func:`find_backend`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fxopt.backend.backend import (
    Backend,
    Runner,
    check_lowerable,
    find_backend,
    not_installed,
    read_json,
    refuses_training,
)
from fxopt.backend.quant_policy import Activations, Policy
from fxopt.backend.standalone import Standalone

if TYPE_CHECKING:
    from fxopt.backend.environment import Environment as Environment
    from fxopt.backend.manifest import Manifest as Manifest

__all__ = [
    "Activations",
    "Backend",
    "Environment",
    "Manifest",
    "Policy",
    "Runner",
    "Standalone",
    "check_lowerable",
    "find_backend",
    "not_installed",
    "read_json",
    "refuses_training",
]


_LATER = {"Environment": "fxopt.backend.environment", "Manifest": "fxopt.backend.manifest"}
"""Imported when they are asked for: naming a backend needs neither pydantic nor processes."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'fxopt.backend' has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
