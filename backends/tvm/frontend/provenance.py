"""How an imported module tells what it comes from: names of variables begin with a node's, and Q/DQ ops are calls."""

from __future__ import annotations

PROVENANCE = "fxopt.provenance"
"""The attribute of ``main`` that gives, by the stem of a variable's name, its node as text with the user's line."""
QUANTIZE, DEQUANTIZE = "fxopt.quantize", "fxopt.dequantize"
"""Calls in an imported module: (x, scale, zero point, low, high), and (quantized, scale, zero point, axis, low, high)."""
_MARK = "__"


def name_for(node: str) -> str:
    """A name for what a node becomes; TVM puts a number after it, so that each is another."""
    return node + _MARK


def stem(name: str) -> str:
    """The name of the node, of the name of a variable."""
    return name.rpartition(_MARK)[0]
