"""Converters of reads and writes by index tensors, whose broadcasting TVM's importer supports in few cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import fx

if TYPE_CHECKING:
    from fxopt.backends.tvm.types import ExportedProgramImporter, Expr


def index(importer: ExportedProgramImporter, node: fx.Node) -> Expr:
    """``x[i, :, j]``: the indexed dims are brought to the front, gathered jointly, and the new dims put where torch has them."""
    from tvm import relax

    emit = importer.block_builder.emit
    x, dims, indices = _operands(importer, node)
    if len(dims) == 1:
        return emit(relax.op.take(x, indices[0], axis=dims[0]))
    rank, shape = len(x.ty.shape), _broadcast(indices)
    rest = [d for d in range(rank) if d not in dims]
    front = emit(relax.op.permute_dims(x, [*dims, *rest])) if dims != list(range(len(dims))) else x
    stacked = emit(relax.op.stack([emit(relax.op.broadcast_to(i, shape)) for i in indices], axis=-1))
    read = emit(relax.op.gather_nd(front, stacked))
    adjacent = dims == list(range(dims[0], dims[0] + len(dims)))
    before = dims[0] if adjacent else 0  # for dims that are not adjacent, the result's come first
    new = list(range(len(shape)))
    order = [len(shape) + i for i in range(before)] + new + [len(shape) + i for i in range(before, len(rest))]
    return read if order == sorted(order) else emit(relax.op.permute_dims(read, order))


def index_put(importer: ExportedProgramImporter, node: fx.Node) -> Expr:
    """``x[i, :, j] = v``, or ``+= v`` where it accumulates: a scatter into the indexed dims, brought to the front."""
    from tvm import relax

    emit = importer.block_builder.emit
    x, dims, indices = _operands(importer, node)
    values = importer.env[node.args[2]] if isinstance(node.args[2], fx.Node) else node.args[2]
    accumulate = node.args[3] if len(node.args) > 3 else node.kwargs.get("accumulate", False)
    rank, shape = len(x.ty.shape), _broadcast(indices)
    rest = [d for d in range(rank) if d not in dims]
    before = dims[0] if dims == list(range(dims[0], dims[0] + len(dims))) else 0
    sizes = [x.ty.shape[d] for d in rest]
    values = emit(relax.op.broadcast_to(values, [*sizes[:before], *shape, *sizes[before:]]))
    new = list(range(before, before + len(shape)))
    others = [i for i in range(len(shape) + len(rest)) if i not in new]
    updates = emit(relax.op.permute_dims(values, [*new, *others])) if new + others != sorted(new + others) else values
    stacked = emit(relax.op.stack([emit(relax.op.broadcast_to(i, shape)) for i in indices], axis=-1))
    order = [*dims, *rest]
    front = emit(relax.op.permute_dims(x, order)) if order != sorted(order) else x
    written = emit(relax.op.scatter_nd(front, stacked, updates, "add" if accumulate else "update"))
    back = [order.index(d) for d in range(rank)]
    return written if back == sorted(back) else emit(relax.op.permute_dims(written, back))


def scatter(importer: ExportedProgramImporter, node: fx.Node, reduction: str) -> Expr:
    """``scatter`` along one dim, of a source that has the shape of the indices."""
    from tvm import relax

    x, indices, source = (importer.env[node.args[place]] for place in (0, 2, 3))
    emit = importer.block_builder.emit
    return emit(relax.op.scatter_elements(x, indices, source, int(node.args[1]) % len(x.ty.shape), reduction))  # type: ignore[arg-type]


def _operands(importer: ExportedProgramImporter, node: fx.Node) -> tuple[Expr, list[int], list[Expr]]:
    """The tensor, the dims that are indexed, and their indices from 0 on."""
    from tvm import relax

    emit = importer.block_builder.emit
    x, given = importer.env[node.args[0]], node.args[1]
    pairs = [(dim, importer.env[i]) for dim, i in enumerate(given) if i is not None]  # type: ignore[arg-type]
    if masks := [i for _, i in pairs if i.ty.dtype == "bool"]:
        raise ValueError(f"{len(masks)} of its indices are masks, whose number of hits is known only when it runs")
    indices = []
    for dim, i in pairs:
        size = x.ty.shape[dim]
        if hasattr(size, "value") and not _from_start(i):
            negative = emit(relax.op.less(i, relax.const(0, i.ty.dtype)))
            from_end = emit(relax.op.add(i, relax.const(int(size), i.ty.dtype)))
            i = emit(relax.op.where(negative, from_end, i))
        indices.append(i)  # along a dynamic dim, indices are taken for such from 0 on
    return x, [dim for dim, _ in pairs], indices


def _from_start(index: Expr) -> bool:
    """Whether indices are known, and none counts from the end."""
    from tvm.ir import GenericConst

    return isinstance(index, GenericConst) and hasattr(index.value, "numpy") and bool((index.value.numpy() >= 0).all())


def _broadcast(indices: list[Expr]) -> list[object]:
    """The broadcast shape of index tensors."""
    rank = max(len(i.ty.shape) for i in indices)
    shape: list[object] = []
    for place in range(-rank, 0):
        sizes = [i.ty.shape[place] for i in indices if len(i.ty.shape) >= -place]
        shape.append(next((s for s in sizes if not (hasattr(s, "value") and int(s) == 1)), sizes[0]))
    return shape
