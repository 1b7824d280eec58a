"""Find the blocks of a program."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import PurePosixPath

from torch import fx

from fxopt.ir.op_table import Trait, family, has
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.structural_equal import canonical_text
from fxopt.pass_manager.block_entry import BlockKind
from fxopt.passes.blocks.block import Block, Blocks
from fxopt.passes.blocks.regions import Regions
from fxopt.passes.prune.depth.residual import find_residuals, origin_of

Found = tuple[BlockKind, fx.Node, fx.Node]
"""Kind, source and end."""

_REDUCTIONS = ("reduce", "pool")


def find_blocks(program: Program) -> Blocks:
    """Find the regions that can be exchanged for another of the same interface, nested as a forest.

    A region lies between two values of which the first dominates the second, and nothing inside it is read outside;
    modules and names play no part. In-place ops stop a region: functionalize first. Of two that overlap without one inside
    the other, the smaller is none.
    """
    regions = Regions(program)
    others: dict[str, str] = {node.name: reason for node, reason in find_residuals(program).others}
    found: dict[tuple[str, str], Block] = {}
    for kind, source, end in _candidates(program, regions, others):
        if (source.name, end.name) in found:
            continue
        made = regions.program_of(source, end)
        if isinstance(made, str):
            others[end.name] = f"no {kind}: {made}"
            continue
        names = frozenset(node.name for node in regions.nodes(source, end))
        name = _name(made, end)
        found[source.name, end.name] = Block(name, kind, source.name, end.name, names, made, canonical_text(made))
    return Blocks(tuple(_nested(program, list(found.values()), others)), tuple(others.items()))


def _candidates(program: Program, regions: Regions, others: dict[str, str]) -> Iterator[Found]:
    for branch in find_residuals(program).branches:
        yield "branch", origin_of(branch.stream), branch.total
    units = {}
    for node in program.graph.nodes:
        if node not in regions.graph:
            continue
        if family(node) == "contraction" and op_name(node) != "aten.scaled_dot_product_attention":
            operands = [n for n in node.all_input_nodes if n in regions.graph]
            if len(operands) == 1:
                units[node] = unit = (operands[0], _end_of_unit(node, regions))
                yield ("unit", *unit)
            elif operands:
                others[node.name] = "it multiplies two computed values"
        elif op_name(node) == "aten.layer_norm":
            yield "norm", node.all_input_nodes[0], node
        elif op_name(node) == "aten.mul.Tensor" and (source := _gated(node, regions)) is not None:
            yield "gate", source, node
        if _is_attention(node) and (ends := _around_attention(node, regions)) is not None:
            yield ("attention", *ends)
    for source, middle in units.values():
        second = [end for read, end in units.values() if origin_of(read) is middle]
        if len(second) == 1 and family(middle) == "unary":
            yield "mlp", source, second[0]


def _end_of_unit(node: fx.Node, regions: Regions) -> fx.Node:
    """The last node of a contraction and the norm, bias and activation after it that nothing else reads."""
    end, wanted = node, ["bias", "norm", "bias", "activation"]
    while wanted and len(end.users) == 1:
        (user,) = end.users
        role = _role(user, end, regions)
        if role not in wanted:
            break
        wanted = wanted[wanted.index(role) + 1 :]
        end = user
    return end


def _role(user: fx.Node, operand: fx.Node, regions: Regions) -> str | None:
    if user not in regions.graph or [n for n in user.all_input_nodes if n in regions.graph] != [operand]:
        return None
    if family(user) == "norm" and op_name(user) != "aten.layer_norm":
        return "norm"
    if op_name(user) in ("aten.add.Tensor", "aten.mul.Tensor"):
        return "bias"
    same = has(user, Trait.SAME_VALUE) or has(user, Trait.CAST) or has(user, Trait.DROPOUT)
    curve = (has(user, Trait.ELEMENTWISE) and family(user) == "unary") or op_name(user) == "aten.prelu"
    return "activation" if curve and not same else None


def _gated(node: fx.Node, regions: Regions) -> fx.Node | None:
    """The operand that a product scales by a gate computed from its own mean; None for any other product."""
    operands = [n for n in node.all_input_nodes if n in regions.graph]
    if len(operands) != 2:
        return None
    for value, weights in (operands, operands[::-1]):
        if value in set(regions.dominators(weights)) and value.meta["val"].shape == node.meta["val"].shape:
            inner = regions.nodes(value, weights)
            smaller = weights.meta["val"].numel() != value.meta["val"].numel()
            if smaller and any(family(n) in _REDUCTIONS for n in inner):
                return value
    return None


def _is_attention(node: fx.Node) -> bool:
    """Whether a node weighs values by a softmax of products of two computed values."""
    if op_name(node) == "aten.scaled_dot_product_attention":
        return True
    if family(node) != "softmax":
        return False
    above, below = node.all_input_nodes[0], list(node.users)
    while family(above) in ("unary", "binary") and above.all_input_nodes:
        above = above.all_input_nodes[0]
    while len(below) == 1 and (has(below[0], Trait.SAME_VALUE) or has(below[0], Trait.DROPOUT)):
        below = list(below[0].users)
    products = ("aten.matmul", "aten.bmm")
    return op_name(above) in products and len(below) == 1 and op_name(below[0]) in products


def _around_attention(node: fx.Node, regions: Regions) -> tuple[fx.Node, fx.Node] | None:
    """The value that queries, keys and values are projected from, and the result of the output projection."""
    projected = lambda n: family(n) == "contraction" and sum(m in regions.graph for m in n.all_input_nodes) == 1  # noqa: E731
    end = next((n for n in regions.post_dominators(node) if projected(n)), None)
    if end is None:
        return None
    for source in regions.dominators(end):
        inner = regions.nodes(source, end) - {end}
        if node in inner and any(projected(n) for n in inner):
            return source, end
    return None


def _nested(program: Program, found: list[Block], others: dict[str, str]) -> Iterator[Block]:
    """The blocks with their parents and unique names, without those that partly overlap a larger one."""
    kept: list[Block] = []
    for block in sorted(found, key=lambda b: -len(b.nodes)):
        crossed = next((b for b in kept if block.overlaps(b) and not block.nodes < b.nodes), None)
        if crossed is None:
            kept.append(block)
        else:
            others.setdefault(block.end, f"no {block.kind}: it shares a part of {crossed.name} and is not inside it")
    order = {node.name: i for i, node in enumerate(program.graph.nodes)}
    kept.sort(key=lambda b: (min(order[n] for n in b.nodes), -len(b.nodes)))
    names: dict[str, int] = {}
    named: list[Block] = []
    for block in kept:
        count = names[block.name] = names.get(block.name, 0) + 1
        name = block.name if count == 1 else f"{block.name}#{count}"
        around = [b for b in named if block.nodes < b.nodes]
        parent = min(around, key=lambda b: len(b.nodes)).name if around else None
        named.append(dataclasses.replace(block, name=name, parent=parent))
    yield from named


def _weights(made: Program) -> list[fx.Node]:
    """The stored weights of the contractions of a block."""
    layers = [node for node in made.graph.nodes if family(node) == "contraction"]
    stored = {
        n: None for node in layers for n in node.all_input_nodes if (t := made.tensor(n)) is not None and t.dim() > 1
    }
    return list(stored)


def _name(made: Program, end: fx.Node) -> str:
    """The module around all weights of a block, or that of its only layer; the name of its last node where it has none."""
    modules = [PurePosixPath(*name.split(".")[:-1]) for name in made.tensors()]
    if not modules:
        return end.name
    common = next(p for p in (modules[0], *modules[0].parents) if all(m.is_relative_to(p) for m in modules))
    layers = [str(weight.target) for weight in _weights(made)]
    alone = layers[0].rpartition(".")[0] if len(layers) == 1 else ""
    return ".".join(common.parts) or alone or end.name
