"""Whether the inputs of a region take every value between their extremes, so that any of these may be tried."""

from __future__ import annotations

from torch import fx

from fxopt.ir.op_table import Trait, family, has
from fxopt.ir.printer import op_name


def fills_ranges(leaves: set[fx.Node], above: set[fx.Node]) -> bool:
    """Whether each of a region's leaves does, as computed by the nodes above."""
    return all(_reaches_all_between(node) for node in _last_layers(leaves, above))


def _last_layers(leaves: set[fx.Node], above: set[fx.Node]) -> list[fx.Node]:
    """The nodes between a region's leaves and the contractions above them, these included."""
    found: list[fx.Node] = []
    todo = list(leaves)
    while todo:
        node = todo.pop()
        if node in found or node not in above or node.op != "call_function":
            continue
        found.append(node)
        if family(node) != "contraction":
            todo += node.all_input_nodes
    return found


def _reaches_all_between(node: fx.Node) -> bool:
    """Whether an op that can have two results at a position can have those between, whatever it has at other positions."""
    kind = family(node)
    if kind in ("unary", "binary"):
        return has(node, Trait.CONTINUOUS) or op_name(node).startswith(("aten.add", "aten.sub", "aten.mul", "aten.div"))
    return (
        kind in ("contraction", "layout", "pool", "pick", "join", "pad", "size") or op_name(node) == "aten.batch_norm"
    )
