"""One kernel in a runtime's profile."""

from __future__ import annotations

from dataclasses import dataclass

NODES = "nodes_of"
"""The fact of a manifest with the program's nodes by the runtime's names."""


@dataclass(frozen=True)
class KernelTime:
    """A kernel as the runtime calls it: its ``kind``, milliseconds a call, and the nodes of the built program that it computes.

    ``nodes`` are names, none for a kernel that the runtime added itself, such as a layout transform. ``ms`` is the median
    over calls, or the mean where the runtime tells no more.
    """

    name: str
    kind: str
    ms: float
    nodes: tuple[str, ...] = ()
