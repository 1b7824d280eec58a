"""A program as a graph in the DOT language, with modules as boxes around their ops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fxopt.ir.printer import op_name, type_text

if TYPE_CHECKING:
    from torch import fx


def dot_text(graph: fx.Graph, dims: dict[str, str]) -> str:
    """The graph without weights; the calls of a module are in a cluster of its path, and edges have dtype and sizes.

    ``dims`` are names of dynamic sizes, by symbol.
    """
    lines = [
        "digraph program {",
        '  node [shape=box, fontname="sans-serif"];',
        '  edge [fontname="sans-serif", fontsize=9];',
    ]
    inside: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op != "get_attr":
            inside.setdefault(_module(node), []).append(node)
    for module, nodes in inside.items():
        drawn = [f"  {_quoted(node.name)} [label={_quoted(_label(node))}];" for node in nodes]
        if module:
            drawn = [f"  subgraph {_quoted(f'cluster_{module}')} {{ label={_quoted(module)};", *drawn, "  }"]
        lines += drawn
    for node in graph.nodes:
        for operand in node.all_input_nodes:
            if operand.op != "get_attr":
                kind = type_text(operand.meta.get("val"), dims) if "val" in operand.meta else ""
                lines.append(f"  {_quoted(operand.name)} -> {_quoted(node.name)} [label={_quoted(kind)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _module(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def _label(node: fx.Node) -> str:
    return f"{op_name(node)}\n{node.name}" if node.op == "call_function" else f"{node.op} {node.target}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
