"""What ``fxopt targets`` shows: the facts of every registered target, and what can be built for it on this machine."""

from __future__ import annotations

from typing import Any

from fxopt import registry
from fxopt.backend import find_backend
from fxopt.errors import UsageError
from fxopt.target import find_target


def target_rows() -> list[dict[str, Any]]:
    """The facts of every target, its ``summary``, and which backends can build for it here.

    ``builds`` lists these backends, ``cannot_build`` maps the others to the reason. A target that is a part of this machine,
    which this machine lacks, has its ``name`` and why it is ``absent``.
    """
    backends = [find_backend(name) for name in registry.names("backend")]
    summaries = {entry.name: entry.summary for entry in registry.entries("target")}
    rows: list[dict[str, Any]] = []
    for name in registry.names("target"):
        try:
            target = find_target(name)
        except UsageError as error:
            rows.append({"name": name, "absent": str(error)})
            continue
        reasons = {backend.name: backend.cannot_build(target) for backend in backends}
        rows.append(
            target.to_dict()
            | {
                "summary": summaries[name],
                "builds": [name for name, reason in reasons.items() if reason is None],
                "cannot_build": {name: reason for name, reason in reasons.items() if reason is not None},
            }
        )
    return rows
