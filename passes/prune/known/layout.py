"""Rules of :mod:`fxopt.passes.prune.known.values` for ops that move, repeat, pick and join elements."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxopt.ir.printer import op_name
from fxopt.passes.prune.known.cells import LIMIT, Cells, Known, Of, collapse, extents, nothing, settle, spread, symbolic
from fxopt.passes.prune.known.reshape import reshape as reshape_cells


def reshape(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """View, reshape, flatten, squeeze …: read off the shapes before and after."""
    cells = of(call["self"])
    return None if cells is None else reshape_cells(cells, _shape(call["self"]), node.meta["val"].shape)


def permute(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Permutations of dims: the op is run on the cells."""
    cells = of(call["self"])
    return None if cells is None else node.target(cells, *node.args[1:], **node.kwargs)  # type: ignore[operator]


def move(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Flip and roll over named dims: what is the same along a dim stays."""
    cells = of(call["self"])
    if cells is None or not call["dims"]:
        return None
    varying = symbolic(_shape(call["self"]))
    cells = settle(cells, call["dims"] if len(node.all_input_nodes) > 1 else varying)
    if len(node.all_input_nodes) > 1:
        return cells
    return node.target(cells, *node.args[1:], **node.kwargs)  # type: ignore[operator]


def shuffle(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Pixel shuffle, run on cells expanded to full size, except the batch dims."""
    cells, shape = of(call["self"]), _shape(call["self"])
    if cells is None or symbolic(shape[-3:]):
        return None
    batch = len(shape) - 3
    cells = settle(cells, range(batch))
    full = spread(cells, [1] * batch + extents(shape)[batch:])
    if full is None:
        return None
    done: torch.Tensor = node.target(full, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return collapse(done, range(done.dim()))


def expand(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """An expanded dim of size 1 is the same all along it already."""
    return of(call["self"])


def repeat(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Repeat and tile: a dim that varies is repeated; by a symbolic number, cells repeat along it as they are."""
    cells = of(call["self"])
    if cells is None:
        return None
    times = list(call.get("repeats", call.get("dims")) or [])
    cells = cells.reshape([1] * (len(times) - cells.dim()) + list(cells.shape))
    times = [1] * (cells.dim() - len(times)) + times
    times = [n if isinstance(n, int) and size > 1 else 1 for n, size in zip(times, cells.shape, strict=True)]
    return cells.repeat(times) if cells.numel() * math.prod(times) <= LIMIT else None


def repeat_interleave(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """A dim that varies has each of its cells repeated."""
    cells, dim, times = of(call["self"]), call["dim"], call["repeats"]
    if cells is None or dim is None:
        return None
    if not isinstance(times, int):
        return settle(cells, [dim])
    return cells if cells.shape[dim] == 1 else cells.repeat_interleave(times, dim)


def pick(node: fx.Node, call: dict[str, Any], of: Of) -> Known:
    """Slice, select, split, unbind along one dim: run where it varies."""
    cells = of(call["self"])
    if cells is None:
        return None
    shape, dim = _shape(call["self"]), call.get("dim", 0)
    if not isinstance(shape[dim], int) or len(node.all_input_nodes) > 1:
        cells = settle(cells, [dim])
    several = isinstance(node.meta["val"], (tuple, list))
    if cells.shape[dim] > 1:
        found = node.target(cells, *node.args[1:], **node.kwargs)  # type: ignore[operator]
        return list(found) if several else found
    if op_name(node) in ("aten.select.int", "aten.unbind.int"):
        cells = cells.select(dim, 0)
    return [cells] * len(node.meta["val"]) if several else cells


def index(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Index one dim by integers; by computed ones, what is the same all along it is known."""
    if "indices" in call and isinstance(call["indices"], (list, tuple)):
        table, places = call["self"], [i for i, given in enumerate(call["indices"]) if given is not None]
        if len(places) != 1:
            return None
        dim, by = places[0], call["indices"][places[0]]
    elif "weight" in call:
        table, dim, by = call["weight"], 0, call["indices"]
    else:
        table, dim, by = call["self"], call["dim"], call["index"]
    cells, numbers = of(table), by.meta["val"]
    if cells is None or numbers.dtype in (torch.bool, torch.uint8):  # masks
        return None
    dim %= cells.dim()
    stored = of(by)
    if stored is None or cells.shape[dim] == 1:
        cells = settle(cells, [dim])
        return cells.reshape(*cells.shape[:dim], *[1] * numbers.dim(), *cells.shape[dim + 1 :])
    if stored.numel() * cells.numel() // cells.shape[dim] > LIMIT:
        return None
    at: tuple[Any, ...] = (*[slice(None)] * dim, stored.long())
    return cells[at]


def triangle(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """tril and triu add zeros."""
    cells = of(call["self"])
    return None if cells is None else torch.where(cells == 0, 0.0, math.nan)


def join(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """Cat and stack: the parts side by side; along a symbolic dim, what all of them have."""
    parts, new = call["tensors"], op_name(node) == "aten.stack"
    rank = node.meta["val"].dim()
    dim = call.get("dim", 0) % rank
    if any(len(_shape(part)) != rank - new for part in parts):
        return None  # cat passes over empty parts of one dim
    cells = [of(part) for part in parts]
    if all(c is None for c in cells):
        return None
    blocks = [nothing(rank) if c is None else (c.unsqueeze(dim) if new else c).double() for c in cells]
    sizes = [1 if new else _shape(part)[dim] for part in parts]
    if symbolic(sizes):
        blocks = [settle(b, [dim]) for b in blocks]
        sizes = [1] * len(sizes)
    full = [max(b.shape[d] for b in blocks) for d in range(rank)]
    if any(b.shape[d] not in (1, full[d]) for b in blocks for d in range(rank) if d != dim):
        return None
    if math.prod(full) // full[dim] * sum(sizes) > LIMIT:
        return None
    return collapse(
        torch.cat([b.expand(*full[:dim], n, *full[dim + 1 :]) for b, n in zip(blocks, sizes, strict=True)], dim), [dim]
    )


def pad(node: fx.Node, call: dict[str, Any], of: Of) -> Cells:
    """A constant border; reflected or replicated, cells that are the same along a dim."""
    shape, widths = list(_shape(call["self"])), call["pad"] if "pad" in call else call["padding"]
    if any(not isinstance(w, int) for w in widths):
        return None
    rank = len(shape)
    sides = {rank - 1 - i // 2: (widths[i], widths[i + 1]) for i in range(0, len(widths), 2)}
    moved = [d for d, w in sides.items() if any(w)]
    cells = of(call["self"])
    cells = nothing(rank) if cells is None else cells.double()
    if call.get("mode", "constant") != "constant" or op_name(node).startswith(("aten.reflection", "aten.replication")):
        return settle(cells, moved)
    value = float(call.get("value") or 0.0)
    for d in moved:
        size = shape[d]
        longer = cells.numel() // cells.shape[d] * (size + sum(sides[d])) if isinstance(size, int) else LIMIT + 1
        if isinstance(size, int) and longer <= LIMIT:
            wide = cells.expand(*cells.shape[:d], size, *cells.shape[d + 1 :])
            cells = collapse(F.pad(wide, [0, 0] * (rank - 1 - d) + list(sides[d]), value=value), [d])
        else:
            cells = settle(cells, [d])
            cells = torch.where(cells == value, cells, math.nan)
    return cells


def _shape(node: fx.Node) -> Any:
    return node.meta["val"].shape
