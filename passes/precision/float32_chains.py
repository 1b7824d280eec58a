"""What lies between values in float32: casting it down and up again would lose digits and win nothing."""

from __future__ import annotations

import torch
from torch import fx

from fxopt.ir.op_table import family
from fxopt.ir.program import Program

_READS_NO_NUMBERS = ("size", "check")


def float32_chains(program: Program, half: set[fx.Node]) -> set[fx.Node]:
    """The largest set of nodes of ``half`` that read nothing in half precision and that only float32 readers read.

    A contraction with a stored matrix is none: its weight is what half precision is for. Neither is what has several
    results, whose readers are split off it.
    """
    chains = {node for node in half if not _has_matrix(program, node) and isinstance(node.meta["val"], torch.Tensor)}
    for node in [node for node in chains if isinstance(_source_value(node), (list, tuple))]:
        chains.discard(node)
    size = -1
    while size != len(chains):  # one sweep along the graph and one back settle all but twisted cases
        size = len(chains)
        for node in [n for n in program.graph.nodes if n in chains]:
            if any(source in half and source not in chains for source in node.all_input_nodes):
                chains.discard(node)
        for node in [n for n in reversed(program.graph.nodes) if n in chains]:
            if any(user in half and user not in chains for user in _readers(node)):
                chains.discard(node)
    return chains


def _readers(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if family(user) not in _READS_NO_NUMBERS]


def _has_matrix(program: Program, node: fx.Node) -> bool:
    if family(node) not in ("contraction", "recurrent"):
        return False
    weights = [program.tensor(source) for source in node.all_input_nodes]
    return any(weight is not None and weight.dim() > 1 for weight in weights)


def _source_value(node: fx.Node) -> object:
    sources = node.all_input_nodes
    return sources[0].meta.get("val") if sources else None
