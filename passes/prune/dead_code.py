"""Remove what no output depends on, dead attention, dropout and checks of dead values included."""

from __future__ import annotations

from torch import fx

from fxopt import Program
from fxopt.ops import family
from fxopt.text import op_name

_CHECK = "aten._assert_tensor_metadata"


def remove_dead(program: Program) -> None:
    """Erase every node that no output and no side effect depends on.

    fx keeps dead attention and dropout, which might draw random numbers, and a check of a dtype keeps all that it reads.
    """
    live: set[fx.Node] = set()
    todo = [node for node in program.graph.nodes if _has_effect(node)]
    while todo:
        node = todo.pop()
        if node not in live:
            live.add(node)
            todo += node.all_input_nodes
    for node in reversed(list(program.graph.nodes)):
        if node not in live and not (op_name(node) == _CHECK and live.issuperset(node.all_input_nodes)):
            program.graph.erase_node(node)


def _has_effect(node: fx.Node) -> bool:
    return op_name(node) != _CHECK and node.is_impure(impure_random=family(node) in (None, "random"))
