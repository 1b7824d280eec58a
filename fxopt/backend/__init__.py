"""The backend interface, and what a backend tells passes about its kernels. No module here imports torch.

May import ``target`` and ``support``, and ``ir`` inside functions.
Offers :class:`fxopt.Backend`, :data:`Runner`, :class:`Policy` and :func:`find_backend`.
"""

from fxopt.backend.backend import (
    Backend,
    Runner,
    check_lowerable,
    find_backend,
    not_installed,
    read_json,
    refuses_training,
)
from fxopt.backend.manifest import Manifest
from fxopt.backend.quant_policy import Activations, Policy
from fxopt.backend.standalone import Standalone

__all__ = [
    "Activations",
    "Backend",
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
