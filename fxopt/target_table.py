"""What ``fxopt targets`` shows: the facts of every registered target, and what can be built for it on this machine."""

from __future__ import annotations

from typing import Any

from fxopt import registry
from fxopt.backend import find_backend
from fxopt.target import find_target


def target_rows() -> list[dict[str, Any]]:
    """For every target its facts; ``builds``: the backends that can build for it here; ``cannot_build``: why others cannot."""
    backends = [find_backend(name) for name in registry.names("backend")]
    rows = []
    for name in registry.names("target"):
        target = find_target(name)
        reasons = {backend.name: backend.cannot_build(target) for backend in backends}
        rows.append(
            target.to_dict()
            | {
                "builds": [name for name, reason in reasons.items() if reason is None],
                "cannot_build": {name: reason for name, reason in reasons.items() if reason is not None},
            }
        )
    return rows
