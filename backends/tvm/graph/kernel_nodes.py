"""Which nodes of the program each kernel computes, recorded before ops are fused, while values still have their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fxopt.backends.tvm.frontend.provenance import stem

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import Call, Expr, IRModule, Var


def name_constants(module: IRModule) -> dict[object, str]:
    """By constant, the stem of the result of the kernel that reads it; of the first one, where several do."""
    found: dict[object, str] = {}
    for var, call in _calls(module):
        for argument in _arguments(call):
            if (key := _key(argument)) is not None and stem(var.name):
                found.setdefault(key, stem(var.name))
    return found


def name_plain(module: IRModule) -> dict[str, list[str]]:
    """By kernel, the stems of the results of its calls, in their order."""
    found: dict[str, list[str]] = {}
    for var, call in _calls(module):
        found.setdefault(str(call.args[0].name_hint), []).append(stem(var.name))
    return found


def kernel_nodes(module: IRModule, constants: dict[object, str], plain: dict[str, list[str]]) -> list[list[str]]:
    """For each kernel that ``main`` calls, in order: its name, and the stems of its results, found by the weights that it reads.

    A kernel without weights was not fused if its name is the one before fusion; its calls are in the same order.
    """
    rows = []
    for _, call in _calls(module):
        name = str(call.args[0].name_hint)
        keys = [_key(argument) for argument in _arguments(call)]
        stems = list(dict.fromkeys(constants[key] for key in keys if key in constants))
        if not stems and plain.get(name):
            stems = [plain[name].pop(0)]
        rows.append([name, *(each for each in stems if each)])
    return rows


def _calls(module: IRModule) -> Iterator[tuple[Var, Call]]:
    from tvm.ir import Call, Op

    for block in module["main"].body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, Call) and isinstance(call.op, Op) and call.op.name.startswith("relax.call_tir"):
                yield binding.var, call


def _arguments(call: Call) -> list[Expr]:
    return list(call.args[1].fields) if hasattr(call.args[1], "fields") else [call.args[1]]


def _key(expr: Expr) -> object | None:
    from tvm.ir import GenericConst

    value = expr.value if isinstance(expr, GenericConst) else None
    return value if hasattr(value, "numpy") else None
