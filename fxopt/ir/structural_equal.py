"""Graphs compared modulo names: the text form with every value and weight renamed by its order."""

from __future__ import annotations

import re

import torch
from torch.utils import _pytree as pytree

from fxopt.ir.printer import node_text
from fxopt.ir.program import Program

_NAME = re.compile(r"%([A-Za-z_]\w*)")
_SYMBOL = re.compile(r"\b[su]\d+\b")


def canonical_text(program: Program) -> str:
    """Text form with values named ``%v0, %v1 …``, weights ``w0, w1 …`` and dynamic sizes ``d0, d1 …`` in order of use.

    Two graphs that differ in nothing but names have the same canonical text. Types are part of it.
    """
    sizes = _sizes(program)
    values: dict[str, str] = {}
    weights: dict[str, str] = {}
    lines = []
    for node in program.graph.nodes:
        if node.op == "get_attr":
            continue
        for needed in [*(n for n in node.all_input_nodes if n.op == "get_attr"), node]:
            if needed.op == "get_attr":
                if needed.name in values:
                    continue
                weights.setdefault(str(needed.target), f"w{len(weights)}")
            values.setdefault(needed.name, f"v{len(values)}")
            line = _NAME.sub(lambda match: "%" + values.get(match[1], match[1]), node_text(needed, dims=sizes))
            if needed.op == "get_attr":
                line = line.replace(f'param "{needed.target}"', f'param "{weights[str(needed.target)]}"')
            lines.append(line)
    return "\n".join(lines)


def same_text(a: Program, b: Program) -> bool:
    """Whether two programs have the same graph, types included, up to the names of values, weights and sizes."""
    return canonical_text(a) == canonical_text(b)


def _sizes(program: Program) -> dict[str, str]:
    """Names for the symbols of dynamic sizes, in order of appearance."""
    symbols: dict[str, str] = {}
    for node in program.graph.nodes:
        for value in pytree.tree_leaves(node.meta.get("val")):
            for size in value.shape if isinstance(value, torch.Tensor) else ():
                for symbol in _SYMBOL.findall(str(size)):
                    symbols.setdefault(symbol, f"d{len(symbols)}")
    return symbols
