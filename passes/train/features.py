"""Feature transfer: which inner values a student is to have in common with its teacher, and how far apart they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx
from torch.nn import functional as F

from fxopt.ir.op_table import family
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import concrete_shapes

_MOST = 4
"""Pairs at most: the ends of the stages of a network."""

Transfer = Literal["none", "hint", "attention"]


@dataclass(frozen=True)
class Pair:
    """A node of the student and one of the teacher, whose values differ in the dim of the channels at most."""

    student: str
    teacher: str
    channel_dim: int
    widths: tuple[int, int]

    def __str__(self) -> str:
        return f"%{self.student} [{self.widths[0]} channels] ↔ %{self.teacher} [{self.widths[1]}]"


def find_pairs(student: Program, teacher: Program) -> list[Pair]:
    """Up to four pairs, from the last value of each resolution of the student that the teacher has too.

    Of the teacher's nodes that have the same shape but for the channels, the one of the same name is taken, or else the
    last. Where there is one resolution, as in transformers, values from evenly along the depth are taken.
    """
    ours, theirs = _candidates(student), _candidates(teacher)
    matches = [pair for node, shape in ours if (pair := _match(node, shape, theirs)) is not None]
    shapes = {node.name: _resolution(shape) for node, shape in ours}
    last = {shapes[pair.student]: pair for pair in matches}  # a later one replaces an earlier one
    chosen = list(last.values())[-_MOST:]
    if len(last) == 1 and len(matches) > _MOST:
        step = len(matches) / _MOST
        chosen = [matches[round(step * (i + 1)) - 1] for i in range(_MOST)]
    return chosen


def _candidates(program: Program) -> list[tuple[fx.Node, tuple[int, ...]]]:
    """Activations and sums of two computed values that have positions: values at which layers end."""
    shape = concrete_shapes(program)
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function" or len(shape(node)) < 3 or not _ends_a_layer(node):
            continue
        value = node.meta["val"]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            found.append((node, shape(node)))
    return found


def _ends_a_layer(node: fx.Node) -> bool:
    computed = [n for n in node.all_input_nodes if n.op == "call_function"]
    return (
        family(node) == "contraction"
        or op_name(node) == "aten.relu"
        or (op_name(node) in ("aten.add.Tensor", "aten.add_.Tensor") and len(computed) == 2)
    )


def _resolution(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Positions of a map [N, C, ...], or of tokens [N, L, D]."""
    return shape[2:] if len(shape) > 3 else shape[1:2]


def _match(node: fx.Node, shape: tuple[int, ...], theirs: list[tuple[fx.Node, tuple[int, ...]]]) -> Pair | None:
    dim = 1 if len(shape) > 3 else 2
    kept = [i for i in range(len(shape)) if i not in (0, dim)]
    same = [
        (other, found)
        for other, found in theirs
        if len(found) == len(shape) and all(shape[i] == found[i] for i in kept)
    ]
    if not same:
        return None
    other, found = next((pair for pair in same if pair[0].name == node.name), same[-1])
    return Pair(node.name, other.name, dim, (shape[dim], found[dim]))


class Features(torch.nn.Module):
    """The loss of pairs of values, and for hints the linear maps from the student's channels to the teacher's.

    ``hint``: mean squared error over the teacher's mean square, through a learned linear map where the widths differ
    (Romero et al. 2015, eq. 3). ``attention``: distance of the maps of summed squares over channels, each of norm one
    (Zagoruyko & Komodakis 2017, eq. 2).
    """

    def __init__(self, pairs: list[Pair], transfer: Transfer) -> None:
        super().__init__()
        self.pairs, self.transfer = pairs, transfer
        maps = [torch.nn.Identity() if a == b else torch.nn.Linear(a, b) for a, b in (pair.widths for pair in pairs)]
        self.maps = torch.nn.ModuleList(maps if transfer == "hint" else [])

    def forward(self, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> torch.Tensor:
        """The mean over the pairs, of values in the order of the pairs."""
        losses = []
        for i, (pair, s, t) in enumerate(zip(self.pairs, student, teacher, strict=True)):
            s, t = s.movedim(pair.channel_dim, -1), t.movedim(pair.channel_dim, -1)
            if self.transfer == "hint":
                losses.append((self.maps[i](s) - t).square().mean() / t.square().mean().clamp_min(1e-12))
            else:
                a, b = (F.normalize(v.square().mean(-1).flatten(1), dim=1) for v in (s, t))
                losses.append((a - b).square().sum(1).mean())
        return torch.stack(losses).mean()
