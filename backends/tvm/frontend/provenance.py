"""Where the variables of a Relax module come from: their names begin with that of a node of the program."""

from __future__ import annotations

PLACES = "fxopt.places"
"""The attribute of ``main`` that gives, by the stem of a variable's name, its node as text with the user's line."""
_MARK = "__"


def name_for(node: str) -> str:
    """A name for what a node becomes; TVM puts a number behind it, so that each is another."""
    return node + _MARK


def stem(name: str) -> str:
    """The name of the node, of the name of a variable."""
    return name.rpartition(_MARK)[0]
