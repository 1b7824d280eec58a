"""Regions whose two sides are affine maps of their leaves: if they agree on random numbers, they are equal.

The difference of two affine maps is affine itself. If it is zero at a point drawn from a density, it is zero everywhere with
probability 1: its zeros are a plane otherwise (Schwartz 1980, for degree one). Other scales, signs and kinks add nothing
then. Numbers that are not finite do, as 0 · inf is NaN.
"""

from __future__ import annotations

from torch import fx

from fxopt.ir.op_table import DIRECT, TRANSPOSED, Trait, arguments, has
from fxopt.ir.printer import op_name
from fxopt.pass_manager.regions.region import Region

_LAYERS = (*DIRECT, *TRANSPOSED, "aten.linear")
_SUMS = ("aten.add.Tensor", "aten.sub.Tensor", "aten.add.Scalar", "aten.sub.Scalar", "aten.neg")
_PRODUCTS = ("aten.mul.Tensor", "aten.mul.Scalar", "aten.matmul", "aten.mm", "aten.addmm")
_QUOTIENTS = ("aten.div.Tensor", "aten.div.Scalar")


def is_affine(region: Region) -> bool:
    """Whether both sides are, row by row of the batch, for whatever weights they have."""
    types = [getattr(leaf.meta["val"], "dtype", None) for leaf in region.leaves]
    if not all(dtype is not None and (dtype.is_floating_point or dtype.is_complex) for dtype in types):
        return False  # bools and integers have no density
    return _side(region.old, set(region.leaves)) and _side(region.new, set(region.cut))


def _side(nodes: tuple[fx.Node, ...], outside: set[fx.Node]) -> bool:
    varying = set(outside)
    for node in nodes:
        operands = [operand for operand in node.all_input_nodes if operand in varying]
        if not operands:
            continue
        if not _keeps_affine(node, operands):
            return False
        varying.add(node)
    return True


def _keeps_affine(node: fx.Node, varying: list[fx.Node]) -> bool:
    """Whether an op is affine in those of its operands that vary, when the others are fixed."""
    name = op_name(node)
    if has(node, Trait.SAME_VALUE) or name in _SUMS:
        return True
    if name in _LAYERS:
        return varying == [arguments(node)["input"]]
    if name == "aten.batch_norm":
        call = arguments(node)
        return varying == [call["input"]] and not call["training"]
    factors = [value for value in arguments(node).values() if value in varying] if name in _PRODUCTS else []
    if name in _QUOTIENTS:
        return varying == [arguments(node)["self"]]
    return len(factors) == 1 == len(varying)
