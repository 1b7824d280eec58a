"""The backend interface, and what a backend tells passes about its kernels. No module here imports torch.

May import ``target`` and ``support``, and ``ir`` inside functions.
Offers :class:`fxopt.Backend`, :data:`Runner`, :class:`Policy` and :func:`find_backend`.
"""

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
from fxopt.backend.environment import Environment
from fxopt.backend.quant_policy import Activations, Policy
from fxopt.backend.standalone import Standalone

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """The manifest when it is asked for: it imports pydantic, which naming a backend does not need."""
    if name != "Manifest":
        raise AttributeError(f"module 'fxopt.backend' has no attribute {name!r}")
    from fxopt.backend.manifest import Manifest

    return Manifest
