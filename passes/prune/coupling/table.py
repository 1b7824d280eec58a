"""The rules of all ops: how an op couples the axes of its operands and result, and what to rewrite when indices go.

A rule is found by the op's name with its overload, by its name without, by its in-place twin, or by its family in
:mod:`fxopt.ops`. Rules stand in the files ``rules_*.py``, one theme each, the rewrite beside the coupling.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx

from fxopt.ops import family
from fxopt.passes.prune.coupling.sweep import Couple
from fxopt.text import op_name

if TYPE_CHECKING:
    from fxopt.passes.prune.coupling.cut import Cut

Rewrite = Callable[["Cut", fx.Node], None]


@dataclass(frozen=True)
class Rule:
    """How an op couples axes; and, where it holds sizes or indices as constants, how to rewrite these."""

    couple: Couple
    rewrite: Rewrite | None = None


RULES: dict[str, Rule] = {}
"""By op name, or by ``family:NAME``."""

_THEMES = (
    "elementwise", "layout", "sizes", "pick", "index", "join", "contraction", "conv", "attention", "norm", "reduce", "window",
)  # fmt: skip


def rule(*ops: str, rewrite: Rewrite | None = None) -> Callable[[Couple], Couple]:
    """Register the rule of some ops: ``@rule("permute", "aten.t")``; aten is understood where no namespace is given."""

    def register(couple: Couple) -> Couple:
        for op in ops:
            name = op if "." in op or ":" in op or op == "getitem" else f"aten.{op}"
            RULES[name] = Rule(couple, rewrite)
        return couple

    return register


def find_rule(node: fx.Node) -> Rule | None:
    """The rule of a node's op, None if there is none."""
    for theme in _THEMES:
        importlib.import_module(f"fxopt.passes.prune.coupling.rules_{theme}")
    name = op_name(node)
    packet, _, overload = name.removeprefix("aten.").partition(".")
    twin = f"aten.{packet[:-1]}" if packet.endswith("_") else name
    for key in (name, name.rsplit(".", 1)[0] if name.count(".") > 1 else name, f"{twin}.{overload}", twin):
        if key in RULES:
            return RULES[key]
    return RULES.get(f"family:{family(node)}")
