"""Which nodes compute in half precision: all but those that a short mantissa or a small range would spoil."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from torch import fx

from fxopt.ir.alias_analysis import alias_sets, written_sets
from fxopt.ir.op_table import Trait, arguments, family, lookup
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.precision.float32_chains import float32_chains

_FAMILIES = {
    "norm": "the statistics of a norm are taken in float32",
    "softmax": "softmax is taken in float32",
    "reduce": "sums are taken in float32",
}
_AS_THEY_ARE = ("create", "random", "size", "check", "quant", "mutate")
_PASSES_ON = ("layout", "copy", "pick", "join")
_NUMBERS = ("number", "float", "Optional[number]", "Optional[float]")


@dataclass
class HalfChoice:
    """``half``: nodes to compute in half precision. ``reasons``: those that could be and stay in float32, and why.
    ``written``: nodes whose memory the graph writes to, so that a copy of them is true only where it is taken."""

    half: set[fx.Node] = field(default_factory=set)
    reasons: dict[fx.Node, str] = field(default_factory=dict)
    written: set[fx.Node] = field(default_factory=set)


def choose_half(program: Program, dtype: torch.dtype, keep_float: tuple[str, ...]) -> HalfChoice:
    """Decide for every node that gives float32; nothing is changed.

    In float32 stay what PyTorch's automatic mixed precision keeps there (its list of ops that autocast to float32), ops
    that the table does not know, layers that a pattern of ``keep_float`` names, memory that is written to, and what reads
    a number beyond the range of ``dtype`` or one that rounds to zero in it. So does what lies between such values alone,
    such as the epsilon of a decomposed norm.
    """
    choice = HalfChoice(written=_written(program))
    far: dict[fx.Node, str] = {}
    for node in program.graph.nodes:
        if node.op != "call_function" or not _gives_float32(node) or family(node) in _AS_THEY_ARE:
            continue
        if op_name(node) == "getitem" and isinstance(node.args[0], fx.Node) and _is_tuple(node.args[0]):
            if node.args[0] in choice.half:
                choice.half.add(node)
            continue
        reason = _far(program, node, dtype)
        read = next((far[source] for source in node.all_input_nodes if source in far), None)
        if reason is not None or (read is not None and family(node) in _PASSES_ON):
            far[node] = reason or str(read)
        reason = _kept(program, node, choice, keep_float) or reason or read
        if reason is not None:
            choice.reasons[node] = reason
        elif not _names_its_dtype(node):
            choice.half.add(node)
    for node in float32_chains(program, choice.half):
        choice.half.discard(node)
        choice.reasons[node] = "it lies between values that stay in float32"
    return choice


def _kept(program: Program, node: fx.Node, choice: HalfChoice, keep_float: tuple[str, ...]) -> str | None:
    kind = family(node)
    if kind is None:
        return f"{op_name(node)} is not in the table of ops"
    row = lookup(node)
    traits = row.traits if row else Trait(0)
    if kind in _FAMILIES and Trait.SELECTS not in traits:
        return _FAMILIES[kind]
    if Trait.NEEDS_FLOAT32 in traits:
        return f"{op_name(node)} is taken in float32: it magnifies rounding, or leaves the range soon"
    if node in choice.written:
        return "the graph writes into this memory"
    for weight in node.all_input_nodes:
        path = str(weight.target)
        if weight.op == "get_attr" and any(fnmatch(n, p) for n in (path, path.rpartition(".")[0]) for p in keep_float):
            return f"kept in float32 by keep_float={keep_float!r}"
    return None


def _far(program: Program, node: fx.Node, dtype: torch.dtype) -> str | None:
    """Why a number or a stored tensor that a node reads would not survive a cast; infinity does."""
    name = str(dtype).removeprefix("torch.")
    for source in node.all_input_nodes:
        tensor = program.tensor(source)
        if tensor is None or tensor.dtype != torch.float32 or not tensor.numel():
            continue
        if bool((tensor.detach().isfinite() & ~tensor.detach().to(dtype).isfinite()).any()):
            largest = tensor.detach().nan_to_num(0, 0, 0).abs().max().item()
            return f"{str(source.target)!r} reaches {largest:.4g}, beyond the range of {name}"
    for number in _numbers(node):
        rounded = torch.tensor(number, dtype=torch.float64).to(dtype)
        if not bool(rounded.isfinite()):
            return f"the number {number:g} is beyond the range of {name}"
        if number and not rounded:
            return f"the number {number:g} is zero in {name}"
    return None


def _numbers(node: fx.Node) -> list[float]:
    """The finite numbers that a node computes with: no sizes, dims or indices."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    kinds = {a.name: str(a.type) for a in node.target._schema.arguments}
    found = [value for name, value in arguments(node).items() if kinds[name] in _NUMBERS or name in ("self", "other")]
    return [float(v) for v in found if isinstance(v, (int, float)) and abs(v) != float("inf")]


def _written(program: Program) -> set[fx.Node]:
    sets = alias_sets(program.graph)
    roots = written_sets(program.graph, sets)
    return {node for node, root in sets.items() if root in roots}


def _names_its_dtype(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and isinstance(arguments(node).get("dtype"), torch.dtype)


def _gives_float32(node: fx.Node) -> bool:
    values = node.meta.get("val")
    values = values if isinstance(values, (list, tuple)) else [values]
    return any(isinstance(value, torch.Tensor) and value.dtype == torch.float32 for value in values)


def _is_tuple(node: fx.Node) -> Any:
    return isinstance(node.meta.get("val"), (list, tuple))
