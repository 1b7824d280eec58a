"""How channels go through ops that keep, move, reduce or combine them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from fxopt.ir.op_table import Trait, arguments, family, has
from fxopt.ir.printer import op_name
from fxopt.passes.quant.equalization.channel_ids import Channels

_Rule = Callable[[Channels, fx.Node], str | None]


def follow(found: Channels, node: fx.Node) -> str | None:
    """Assign the ids of a node's value, or say why its channels cannot be followed."""
    rule = _rule(node)
    return rule(found, node) if rule else f"channels cannot be followed through {op_name(node)}"


def _keep(found: Channels, node: fx.Node) -> None:
    found.ids[node] = found.ids[node.args[0]]  # type: ignore[index]


def _meet(found: Channels, node: fx.Node) -> str | None:
    if any(not isinstance(operand, fx.Node) for operand in node.args[:2]):
        return f"{op_name(node)} has a number for an operand"
    first, second = (found.ids[n] for n in node.args[:2])  # type: ignore[index]
    found.ids[node] = found.unite(first, second, f"in {op_name(node)} it meets channels that stay as they are")
    return None


def _window(found: Channels, node: fx.Node) -> str | None:
    ids = found.ids[node.args[0]]  # type: ignore[index]
    spatial = int(next(letter for letter in op_name(node) if letter.isdigit()))
    if any(size != 1 for size in ids.shape[-spatial:]):
        return f"{op_name(node)} mixes channels"
    found.ids[node] = ids
    return None


def _reduce(found: Channels, node: fx.Node) -> str | None:
    call = arguments(node)
    ids, dims = found.ids[node.args[0]], call.get("dim")  # type: ignore[index]
    dims = [dims] if isinstance(dims, int) else list(dims or range(ids.dim()))
    if any(ids.shape[dim] != 1 for dim in dims):
        return f"{op_name(node)} mixes channels"
    found.ids[node] = ids.amax(dims, call.get("keepdim", False))
    return None


def _pad(found: Channels, node: fx.Node) -> str | None:
    ids, sizes = found.ids[node.args[0]], node.args[1]  # type: ignore[index]
    if any(size != 1 for size in ids.shape[ids.dim() - len(sizes) // 2 :]):  # type: ignore[arg-type]
        return f"{op_name(node)} adds channels"
    found.ids[node] = ids
    return None


def _move(found: Channels, node: fx.Node) -> str | None:
    """Run the op on the ids, at the sizes of the example."""
    args, kwargs = pytree.tree_map_only(fx.Node, lambda n: _operand(found, n), (node.args, dict(node.kwargs)))
    if any(value is None for value in pytree.tree_leaves([_operand(found, n) for n in node.all_input_nodes])):
        return f"the sizes of {op_name(node)} depend on values"
    found.ids[node] = pytree.tree_map_only(torch.Tensor, _narrowed, node.target(*args, **kwargs))  # type: ignore[operator]
    return None


def _item(found: Channels, node: fx.Node) -> str | None:
    values, place = found.ids[node.args[0]], node.args[1]  # type: ignore[index]
    if isinstance(values, torch.Tensor):
        return "channels cannot be followed through an index"
    found.ids[node] = values[place]
    return None


def _operand(found: Channels, node: fx.Node) -> Any:
    """Ids at the full size of the value, or a size; None where that depends on values."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return _size(value)
    sizes = [_size(size) for size in value.shape]
    return None if None in sizes else found.ids[node].expand(sizes).contiguous()


def _size(size: Any) -> Any:
    return size.node.hint if isinstance(size, torch.SymInt) else size


def _narrowed(ids: torch.Tensor) -> torch.Tensor:
    for dim in range(ids.dim()):
        if ids.shape[dim] > 1 and bool((ids == ids.narrow(dim, 0, 1)).all()):
            ids = ids.narrow(dim, 0, 1)
    return ids


def _rule(node: fx.Node) -> _Rule | None:
    kind = family(node)
    if has(node, Trait.REARRANGES):
        return _pad if kind == "pad" else _move
    if not has(node, Trait.HOMOGENEOUS) and kind in ("pool", "resample", "reduce"):
        return None
    if kind == "binary" and has(node, Trait.ELEMENTWISE):
        return _meet if has(node, Trait.HOMOGENEOUS) else _keep if has(node, Trait.HOMOGENEOUS_IN_FIRST) else None
    if kind == "unary" and has(node, Trait.ELEMENTWISE):
        return _keep
    return {"pool": _window, "resample": _window, "reduce": _reduce}.get(kind or "") or _OTHERS.get(op_name(node))


_OTHERS: dict[str, _Rule] = {"getitem": _item}
