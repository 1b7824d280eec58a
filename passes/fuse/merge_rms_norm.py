"""Merge the ops of an RMS norm that is written out into one."""

from __future__ import annotations

import torch
from torch import fx

from fxopt import Program, graph_pass
from fxopt.ir.op_table import Trait, has
from fxopt.ir.printer import op_name
from fxopt.ir.rms_norm import match_rms_norm, unchanged_source
from fxopt.passes.common.weight_value import is_weight, weight_value

aten = torch.ops.aten


@graph_pass
def merge_rms_norm(program: Program) -> None:
    """Merge x / sqrt(mean(x²) + eps), written out as transformers do, into an RMS norm.

    A weight that multiplies the result goes with it (Zhang and Sennrich 2019, eq. 4). Where a cast to another precision
    stands between, the ops are left as they are.

    before:
        %x : f32[2,4]
        %w = param "norm.weight" : f32[4]
        %a = aten.pow.Tensor_Scalar(%x, 2)
        %b = aten.mean.dim(%a, [-1], True)
        %c = aten.add.Tensor(%b, 1e-06)
        %d = aten.rsqrt(%c)
        %e = aten.mul.Tensor(%x, %d)
        %y = aten.mul.Tensor(%w, %e)
        return %y
    after:
        %x : f32[2,4]
        %w = param "norm.weight" : f32[4]
        %y = aten.rms_norm(%x, [4], %w, 1e-06)
        return %y
    """
    for root in program.find("aten.rsqrt"):
        found = match_rms_norm(root)
        if found is None or found.dims != (-1,):
            continue
        width = found.product.meta["val"].shape[-1]
        if not isinstance(width, int):
            program.skip(root, "it is over a dim of dynamic size")
            continue
        scaled, weight = _weighted(program, found.product, width)
        with program.graph.inserting_before(scaled):
            norm = program.graph.call_function(aten.rms_norm.default, (found.value, [width], weight, found.eps))
        program.replace(scaled, norm)


def _weighted(program: Program, product: fx.Node, width: int) -> tuple[fx.Node, fx.Node | None]:
    """The product with its weight, if a vector multiplies it that is stored or computed of stored ones, and that."""
    behind, (user, *others) = product, _readers(product)
    while not others and unchanged_source(user) is product:
        behind, (user, *others) = user, _readers(user)
    if others or op_name(user) != "aten.mul.Tensor":
        return product, None
    factor = next((n for n in user.args[:2] if n is not behind), None)
    value = factor.meta.get("val") if isinstance(factor, fx.Node) else None
    if not isinstance(value, torch.Tensor) or value.shape != (width,) or value.dtype != product.meta["val"].dtype:
        return product, None
    assert isinstance(factor, fx.Node)
    if program.tensor(factor) is None:
        if not is_weight(factor):
            return product, None
        source = next(n for n in program.graph.nodes if n.op == "get_attr" and n in _above(factor))
        factor = program.add_tensor(str(source.target), weight_value(program, factor).clone(), user)
    return user, factor


def _readers(node: fx.Node) -> list[fx.Node]:
    """The users that read the numbers of a value; at least one, as what computes nothing is gone."""
    return [user for user in node.users if not has(user, Trait.READS_FORM_ONLY)] or list(node.users)


def _above(node: fx.Node) -> set[fx.Node]:
    found, todo = {node}, [node]
    while todo:
        new = set(todo.pop().all_input_nodes) - found
        found |= new
        todo += new
    return found
