"""Which features of projections are the dims of which head, however a model rearranges them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.numerics.module_state import copied
from fxopt.passes.lowrank.head_meetings import ATTENTION, Meeting, find_meetings, moves, scales


@dataclass(frozen=True)
class HeadPair:
    """Two linears whose features a product contracts: for every head, their indices ``[heads, dims]`` on each side.

    ``left`` are outputs of ``first``. ``right`` are outputs of ``second`` (query and key), or with ``inward`` its inputs
    (value and output). Heads that share keys or values have rows that are equal.
    """

    first: fx.Node
    second: fx.Node
    left: torch.Tensor
    right: torch.Tensor
    inward: bool


def head_pairs(program: Program, *, shared: bool = False) -> tuple[list[HeadPair], dict[fx.Node, str]]:
    """The pairs of all attentions, and why an attention or a product of projections has none.

    With ``shared`` heads may share keys or values (grouped queries), where these are repeated before the product.

    Between the linears and the product there may be ops that rearrange values, select some of them, as of packed
    projections, or scale all of them by one factor. Indices of features are run through these once, with the example inputs,
    to see where each arrives.
    """
    meetings, reasons = find_meetings(program)
    seen = _tracked(program, meetings) if meetings else {}
    known = frozenset().union(*(m.path | {m.product} for m in meetings))
    pairs = []
    for meeting in meetings:
        reads = [_stray(meeting.first, known)] + ([] if meeting.inward else [_stray(meeting.second, known)])
        stray = next((node for node in reads if node is not None), None)
        if stray is not None:
            reasons[meeting.product] = f"%{stray.name} reads its projection too"
            continue
        pair = (_inward if meeting.inward else _outward)(meeting, seen, shared)
        if isinstance(pair, str):
            reasons[meeting.product] = pair
        else:
            pairs.append(pair)
    return pairs, reasons


def _stray(linear: fx.Node, known: frozenset[fx.Node]) -> fx.Node | None:
    """A node that reads a projection, maybe rearranged, and is on no known path."""
    left = [linear]
    while left:
        for user in left.pop().users:
            if user not in known:
                return user
            if moves(user):
                left.append(user)
    return None


def _tracked(program: Program, meetings: list[Meeting]) -> dict[fx.Node, Any]:
    """For the nodes on the paths the indices of features; after a product, of position and dim."""
    starts = {m.first for m in meetings} | {m.second for m in meetings if not m.inward}
    products = {m.product for m in meetings if m.inward}
    path = frozenset().union(*(m.path for m in meetings))
    numbers: dict[fx.Node, Any] = {}

    class Track(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n in starts:
                numbers[n] = torch.arange(value.shape[-1]).expand(value.shape)
            elif n in products:
                *lead, _, dims = value.shape
                places = torch.arange(torch.Size([*lead, dims]).numel()).reshape(*lead, 1, dims)
                numbers[n] = places.expand(value.shape)
            elif n in path and n.args[0] in numbers:
                args, kwargs = self.fetch_args_kwargs_from_env(n)
                source = numbers[n.args[0]]  # type: ignore[index]
                numbers[n] = source if scales(n) else n.target(source, *args[1:], **kwargs)  # type: ignore[operator]
            return value

    with torch.no_grad():
        Track(program.module).run(*copied(program.example_leaves()), enable_io_processing=False)
    return numbers


def _outward(meeting: Meeting, seen: dict[fx.Node, Any], shared: bool) -> HeadPair | str:
    """The pair of a query and a key."""
    left, right = seen[meeting.left], seen[meeting.right]
    if op_name(meeting.product) != ATTENTION:
        right = right.mT
    if left.shape[:-2] != right.shape[:-2] or left.shape[-1] != right.shape[-1]:
        return "several heads share a key"
    rows = []
    for value in (left, right):
        if not bool((value == value[..., :1, :]).all()):
            return "the dims of a head are not in the same place at every position"
        rows.append(value[..., 0, :].reshape(-1, value.shape[-1]))
    heads = torch.cat(rows, 1).unique(dim=0)
    dims = left.shape[-1]
    return _checked(meeting, heads[:, :dims], heads[:, dims:], shared)


def _inward(meeting: Meeting, seen: dict[fx.Node, Any], shared: bool) -> HeadPair | str:
    """The pair of a value and an output projection."""
    left = seen[meeting.left]
    if not bool((left == left[..., :1, :]).all()):
        return "the dims of a head are not in the same place at every position"
    places = left[..., 0, :].reshape(-1, left.shape[-1])
    read = seen[arguments(meeting.second)["input"]]
    numbers = read.reshape(-1, read.shape[-1])[0]
    dims = left.shape[-1]
    lead, dim = numbers // dims, numbers % dims
    used = lead.unique()
    if len(numbers) != len(used) * dims or int(used.max()) >= len(places):
        return "several heads share a value, or not all of a head is read"
    right = torch.stack([(lead == one).nonzero()[:, 0][dim[lead == one].argsort()] for one in used])
    return _checked(meeting, places[used], right, shared)


def _checked(meeting: Meeting, left: torch.Tensor, right: torch.Tensor, shared: bool) -> HeadPair | str:
    for features in (left, right):
        rows = features.unique(dim=0) if shared else features
        if rows.unique().numel() != rows.numel():
            return "several heads share the outputs of a projection"
    return HeadPair(meeting.first, meeting.second, left, right, meeting.inward)
