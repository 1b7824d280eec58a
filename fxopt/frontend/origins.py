"""Which node of a program each node of its export comes from."""

from __future__ import annotations

from typing import Any

import torch

from fxopt.ir.program import Program


def origins_of(exported: torch.export.ExportedProgram, program: Program) -> dict[str, str]:
    """Names of the program's nodes by the names of those of its export, decomposed or not.

    An export renumbers nodes, so that the same name may be another node; each records the graph that it came from.
    """
    graph = id(program.graph)
    return {
        node.name: name for node in exported.graph.nodes if (name := _origin(node.meta.get("from_node", ()), graph))
    }


def _origin(sources: Any, graph: int) -> str | None:
    left = list(sources)
    while left:
        source = left.pop(0)
        if source.graph_id == graph:
            return str(source.name)
        left += list(source.from_node or ())
    return None
