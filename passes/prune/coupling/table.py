"""The rules of all ops: how an op couples the axes of its operands and result, and what to rewrite when indices go.

A rule is found by the op's name with its overload, by its name without, by its in-place twin, or by its family in
:mod:`fxopt.ir.op_table`. Rules stand in the files ``rules_*.py``, one theme each, the rewrite beside the coupling.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import fx

from fxopt.ir.op_table import family
from fxopt.ir.printer import op_name
from fxopt.passes.prune.coupling.sweep import Couple

if TYPE_CHECKING:
    from fxopt.passes.prune.coupling.cut import Cut

Rewrite = Callable[["Cut", fx.Node], None]


@dataclass(frozen=True)
class CouplingRule:
    """How an op couples axes; and, where it holds sizes or indices as constants, how to rewrite these."""

    couple: Couple
    rewrite: Rewrite | None = None


_RULES: dict[str, CouplingRule] = {}


def rule(*ops: str, rewrite: Rewrite | None = None) -> Callable[[Couple], Couple]:
    """Register the rule of some ops: ``@rule("permute", "aten.t")``; aten is understood where no namespace is given."""

    def register(couple: Couple) -> Couple:
        for op in ops:
            name = op if "." in op or ":" in op or op == "getitem" else f"aten.{op}"
            _RULES[name] = CouplingRule(couple, rewrite)
        return couple

    return register


@functools.cache
def all_rules() -> dict[str, CouplingRule]:
    """Every rule by op name, or by ``family:NAME``."""
    here = importlib.import_module(__name__.rpartition(".")[0])
    for found in pkgutil.iter_modules(here.__path__, f"{here.__name__}."):
        if found.name.startswith(f"{here.__name__}.rules_"):  # they import this file
            importlib.import_module(found.name)
    return _RULES


def find_rule(node: fx.Node) -> CouplingRule | None:
    """The rule of a node's op, None if there is none."""
    return all_rules().get(_key(op_name(node)) or f"family:{family(node)}")


@functools.cache
def _key(name: str) -> str | None:
    """Under which name an op has a rule; None if it has that of its family."""
    rules = all_rules()
    packet, _, overload = name.removeprefix("aten.").partition(".")
    twin = f"aten.{packet[:-1]}" if packet.endswith("_") else name
    for key in (name, name.rsplit(".", 1)[0] if name.count(".") > 1 else name, f"{twin}.{overload}", twin):
        if key in rules:
            return key
    return None
