"""What a runtime's profiler tells of one kernel."""

from __future__ import annotations

from dataclasses import dataclass

NODES = "nodes_of"
"""The fact of a manifest that has the program's nodes by the names that a runtime knows."""


@dataclass(frozen=True)
class KernelTime:
    """A kernel as the runtime calls it: its ``kind``, milliseconds a call, and the nodes of the built program that it computes.

    ``nodes`` are names, none for what the runtime added itself, such as a change of layout. ``ms`` is the median over calls.
    """

    name: str
    kind: str
    ms: float
    nodes: tuple[str, ...] = ()
