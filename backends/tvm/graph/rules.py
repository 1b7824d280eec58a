"""The lowering rules of all ops, by name: one for values in float, and one for quantized values, which is tried first.

A rule is a function of the lowering, the variable that is bound, and its value. It defines the variable's layouts and returns
True; or it declines with False, and the op is kept. Rules are in the files ``lower_*.py``, one theme each.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from fxopt.backends.tvm.graph.lowering import Lowering
    from fxopt.backends.tvm.types import Call, Var

Rule: TypeAlias = "Callable[[Lowering, Var, Call], bool]"
TUPLE_ITEM = "tuple item"
"""What stands for the op's name where a value is an item of a tuple."""


@dataclass
class Rules:
    """The rules of one op."""

    plain: Rule | None = None
    quantized: Rule | None = None


_RULES: dict[str, Rules] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register the rule of some ops for values in float: ``@rule("relax.nn.conv2d")``."""

    def register(lower: Rule) -> Rule:
        for op in ops:
            _RULES.setdefault(op, Rules()).plain = lower
        return lower

    return register


def quantized_rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register the rule of some ops for quantized values."""

    def register(lower: Rule) -> Rule:
        for op in ops:
            _RULES.setdefault(op, Rules()).quantized = lower
        return lower

    return register


def rules_of(op: str) -> Rules:
    """The rules of an op; both are None where there is none."""
    return all_rules().get(op, Rules())


@functools.cache
def all_rules() -> dict[str, Rules]:
    """Every rule by op name."""
    graph = importlib.import_module(__name__.rpartition(".")[0])
    for found in pkgutil.walk_packages(graph.__path__, f"{graph.__name__}."):
        if found.name.rpartition(".")[2].startswith("lower_"):  # they import this file
            importlib.import_module(found.name)
    return _RULES
