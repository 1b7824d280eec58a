"""Placement: which values and layers are quantized under a policy, decided on the graph before anything is changed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any

import torch
from torch import fx

from fxopt.backend.quant_policy import Policy
from fxopt.ir.op_table import DIRECT, TRANSPOSED, Trait, arguments, bounds, family, has
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.passes.quant.observers import FORMATS, Affine, Format

_PRODUCTS = ("aten.matmul", "aten.bmm")
LEFT = "left in float, so that the budget of quantization holds"
"""The reason for a layer that a budget keeps in float."""


@dataclass
class Placement:
    """``layers``: contractions with a weight to quantize; ``products``: those of two values. ``values``: nodes whose result
    is quantized, with the node whose scale they share (often themselves). ``whole``: those that every reader sees quantized;
    the rest only the readers in ``edges`` do, pairs of a value and a reader. ``declined``: contractions that stay in float,
    and why. ``notes``: what else a user has to know.

    What a quantizer of the user's may ask for beside: ``forms``, formats of values that are not the policy's;
    ``fixed``, codes that need no calibration; ``pooled``, values whose numbers the scale that they share has to cover too;
    ``per_tensor``, layers whose weight has one scale."""

    layers: list[fx.Node] = field(default_factory=list)
    products: list[fx.Node] = field(default_factory=list)
    values: dict[fx.Node, fx.Node] = field(default_factory=dict)
    whole: set[fx.Node] = field(default_factory=set)
    edges: set[tuple[fx.Node, fx.Node]] = field(default_factory=set)
    declined: dict[fx.Node, str] = field(default_factory=dict)
    notes: list[tuple[fx.Node, str]] = field(default_factory=list)
    forms: dict[fx.Node, Format] = field(default_factory=dict)
    fixed: dict[fx.Node, Affine] = field(default_factory=dict)
    pooled: set[fx.Node] = field(default_factory=set)
    per_tensor: set[fx.Node] = field(default_factory=set)

    def quantizes(self, value: fx.Node, reader: fx.Node) -> bool:
        """Whether ``reader`` sees ``value`` through its codes."""
        return value in self.values and (value in self.whole or (value, reader) in self.edges)


def place(
    program: Program, policy: Policy, keep_float: tuple[str, ...], left: Collection[str] = frozenset()
) -> Placement:
    """Decide what is quantized; nothing is changed.

    ``keep_float`` are patterns of weights, modules or nodes, ``left`` names of nodes that stay in float too.
    """
    result = Placement()
    for node in program.graph.nodes:
        if family(node) != "contraction":
            continue
        product = policy.products and multiplies_values(program, node)
        reason = (
            LEFT if node.name in left else _kept(node, keep_float) if product else declined(program, node, keep_float)
        )
        if reason:
            result.declined[node] = reason
        else:
            (result.products if product else result.layers).append(node)
    outputs, integer = _integer_region(program, policy, set(result.layers))
    for node in result.layers:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        result.edges.add((source, node))
        result.values.setdefault(source, source)
        gives_codes = policy.linear_output if op_name(node) == "aten.linear" else activated(node) in outputs
        if gives_codes:
            result.values[activated(node)] = activated(node)
            result.whole.add(activated(node))
    for node in (n for n in program.graph.nodes if n in integer):
        out = activated(node)
        result.edges.update((source, node) for source in node.all_input_nodes)
        result.values[out] = out
        result.whole.add(out)
    for node in result.products:
        _place_product(node, policy, result)
    _share_scales(program, policy, result)
    return result


def multiplies_values(program: Program, node: fx.Node) -> bool:
    """Whether a node is a product of two values, float32 and neither of them stored."""
    return op_name(node) in _PRODUCTS and all(
        isinstance(side, fx.Node)
        and _before_moves(side, node)[0].op != "get_attr"
        and side.meta["val"].dtype == torch.float32
        for side in node.args[:2]
    )


def _place_product(node: fx.Node, policy: Policy, result: Placement) -> None:
    """Quantize both sides where they are computed, before what moves them: the right one around zero, as a weight is.

    Its zero point being zero, nothing has to be taken from the sums for it.
    """
    for side, right in zip(node.args[:2], (False, True), strict=True):
        assert isinstance(side, fx.Node)
        source, reader = _before_moves(side, node)
        if right and source not in result.values and policy.activations == "uint8":
            result.forms[source] = FORMATS["int8"]
        result.values.setdefault(source, source)
        result.edges.add((source, reader))


def _before_moves(side: fx.Node, reader: fx.Node) -> tuple[fx.Node, fx.Node]:
    """What a side of a product is before ops that move it and that nothing else reads, and the first of these."""
    while family(side) == "layout" and len(side.users) == 1:
        side, reader = side.all_input_nodes[0], side
    return side, reader


def activated(node: fx.Node) -> fx.Node:
    """The activation that a kernel applies for free behind ``node``, where it is its only reader; ``node`` otherwise."""
    if len(node.users) == 1:
        (user,) = node.users
        if _clamps_from_zero(user) and user.args[0] is node:
            return user
    return node


def _clamps_from_zero(node: fx.Node) -> bool:
    """Whether the byte range itself does what the activation does: its lower bound is zero."""
    clamp = bounds(node)
    return clamp is not None and bool(clamp[0] == 0)


def declined(program: Program, node: fx.Node, keep_float: tuple[str, ...]) -> str | None:
    """Why a contraction stays in float whatever the policy; None where it can be quantized. Raises PassError for NaN."""
    name = op_name(node)
    if name in TRANSPOSED:
        return "transposed convolutions have no integer kernel"
    if name not in (*DIRECT, "aten.linear"):
        return "only convolutions and linears with a stored weight are quantized"
    call = arguments(node)
    weight, bias = program.tensor(call["weight"]), program.tensor(call["bias"])
    if family(call["weight"]) == "quant":
        return "its weight is quantized already"
    if weight is None or (call["bias"] is not None and bias is None):
        return "its weight or bias is computed, not stored"
    if weight.dtype != torch.float32:
        return f"its weight is {weight.dtype}, not float32"
    path = str(call["weight"].target)
    if reason := _kept(node, keep_float, path, path.rpartition(".")[0]):
        return reason
    if not bool(weight.isfinite().all()):
        raise program.fail(node, f"the weight {path!r} holds NaN or infinity")
    if any(op_name(user) == "aten.batch_norm" for user in node.users):
        return "a batch norm comes behind it that could not be folded"
    return None


def _kept(node: fx.Node, keep_float: tuple[str, ...], *paths: str) -> str | None:
    """The reason if patterns name a node, or one of its weight's paths, to stay in float."""
    named = any(fnmatch(name, pattern) for name in (node.name, *paths) for pattern in keep_float)
    return f"kept in float by keep_float={keep_float!r}" if named else None


def _integer_region(program: Program, policy: Policy, layers: set[fx.Node]) -> tuple[set[fx.Node], set[fx.Node]]:
    """What convolutions give in integers, and the ops of the policy's chain that take and give integers."""
    outputs = {activated(node) for node in layers if op_name(node) in DIRECT}
    if policy.convolution_output == "never":
        outputs.clear()
    region = _chain(program, policy, layers, outputs)
    if policy.convolution_output == "between_integers":
        while floats := {node for node in outputs if not node.users.keys() <= layers | region}:
            outputs -= floats
            region = _chain(program, policy, layers, outputs)
    return outputs, region


def _chain(program: Program, policy: Policy, layers: set[fx.Node], outputs: set[fx.Node]) -> set[fx.Node]:
    """Ops of the policy's chain all of whose inputs are integers, and whose result an integer op reads."""
    integers = set(outputs)
    chain: list[fx.Node] = []
    for node in program.graph.nodes:
        sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if not sources or not all(source in integers for source in sources):
            continue
        if _stays(node, policy) and len(sources) == len(_tensor_operands(node)):
            chain.append(node)
            integers.add(activated(node))
        elif same_numbers(node):
            chain.append(node)
            integers.add(node)
    kept: set[fx.Node] = set()
    for node in reversed(chain):
        if any(user in kept or user in layers for user in activated(node).users):
            kept.add(node)
    return kept


def _stays(node: fx.Node, policy: Policy) -> bool:
    name = op_name(node)
    if name == "aten.adaptive_avg_pool2d":
        size = arguments(node)["output_size"]
        return name in policy.chain and list(size) == [1, 1]
    if name == "aten.add.Tensor" and arguments(node)["alpha"] != 1:
        return False
    return name in policy.chain and name != "aten.max_pool2d"


def same_numbers(node: fx.Node) -> bool:
    """Whether what comes out is among what went in, so that it has the same scale."""
    return family(node) == "layout" or op_name(node) == "aten.max_pool2d" or has(node, Trait.DROPOUT)


def _tensor_operands(node: fx.Node) -> list[Any]:
    """Operands that must be tensors: both sides of a binary op, every part of a concatenation."""
    if op_name(node) == "aten.cat":
        return list(dict.fromkeys(node.args[0]))  # type: ignore[arg-type]
    if op_name(node) in ("aten.add.Tensor", "aten.mul.Tensor"):
        return list(dict.fromkeys(node.args[:2]))
    return [node.args[0]]


def _share_scales(program: Program, policy: Policy, result: Placement) -> None:
    """Let what has the same numbers have the same scale, and what a kernel wants alike the scale of the first, for all of it."""
    groups: list[set[fx.Node]] = []
    for node in program.graph.nodes:
        if node not in result.values:
            continue
        if same_numbers(node) and node.args[0] in result.values:
            result.values[node] = result.values[node.args[0]]
        elif op_name(node) in policy.one_scale and all(result.quantizes(n, node) for n in node.all_input_nodes):
            alike = {result.values[value] for value in (node, *node.all_input_nodes)}
            joined = [group for group in groups if group & alike]
            groups = [group for group in groups if not group & alike] + [alike.union(*joined)]
    for owners in groups:
        first = min(owners)
        result.pooled |= owners - {first}
        result.values |= {value: first for value, owner in result.values.items() if owner in owners}
