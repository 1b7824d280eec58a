"""Remove what no output depends on, dead attention, dropout, checks and writes into dead memory included."""

from __future__ import annotations

from collections import defaultdict

from torch import fx

from fxopt.aliasing import alias_sets, written
from fxopt.ops import family
from fxopt.program import Program
from fxopt.text import op_name

_CHECK = "aten._assert_tensor_metadata"


def remove_dead(program: Program) -> None:
    """Erase every node that no output and no side effect depends on.

    fx keeps dead attention and dropout, which might draw random numbers, and a check of a dtype keeps all that it reads.
    A write into memory that the graph made itself, and that nothing alive reads, is dead too.
    """
    sets = alias_sets(program.graph)
    outside = {sets[node] for node in program.graph.nodes if node.op in ("placeholder", "get_attr")}
    writers: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for node in program.graph.nodes:
        for target in written(node):
            writers[sets[target]].append(node)
    inner = {node for root, nodes in writers.items() if root not in outside for node in nodes}
    live: set[fx.Node] = set()
    todo = [node for node in program.graph.nodes if node not in inner and has_effect(node)]
    while todo:
        node = todo.pop()
        if node not in live:
            live.add(node)
            todo += [*node.all_input_nodes, *writers.get(sets[node], ())]
    for node in reversed(list(program.graph.nodes)):
        if node not in live and not (op_name(node) == _CHECK and live.issuperset(node.all_input_nodes)):
            program.graph.erase_node(node)


def has_effect(node: fx.Node) -> bool:
    """Whether a node does more than compute its value: an input, an output, a write, a draw of random numbers."""
    return op_name(node) != _CHECK and node.is_impure(impure_random=family(node) in (None, "random"))
