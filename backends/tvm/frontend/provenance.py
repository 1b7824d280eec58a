"""Provenance in an imported module: names of variables begin with a node's, and Q/DQ ops are calls."""

from __future__ import annotations

PROVENANCE = "fxopt.provenance"
"""The attribute of ``main`` with the nodes as text, with the user's lines, by the stem of a variable's name."""
QUANTIZE, DEQUANTIZE = "fxopt.quantize", "fxopt.dequantize"
"""Calls in an imported module: (x, scale, zero point, low, high), and (quantized, scale, zero point, axis, low, high)."""
_MARK = "__"


def name_for(node: str) -> str:
    """A name for the variables of a node; TVM appends numbers to make them unique."""
    return node + _MARK


def stem(name: str) -> str:
    """The name of the node in the name of a variable."""
    return name.rpartition(_MARK)[0]
