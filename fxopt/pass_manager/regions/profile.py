"""The profile of a rewritten region, which decides its trials: its size, its work, and the kind of map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import sympy
import torch

from fxopt.ir.op_table import arguments
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.numerics.edge_values import PATTERNS
from fxopt.numerics.probe_inputs import size_with
from fxopt.pass_manager.regions.affine import is_affine
from fxopt.pass_manager.regions.region import Region, constants_in
from fxopt.pass_manager.regions.window import Places
from fxopt.pass_manager.regions.work import Work

_HEAVY = 2**14
"""Elements of the leaves at a batch of one from which on one batch has all patterns in its rows, and few runs are made."""

_HEAVY_WORK = 2**26 // len(PATTERNS)
"""The same in multiplications."""


@dataclass(frozen=True)
class Profile:
    """Facts of a region: elements of its leaves and multiplications, both at a batch of one, and its kind."""

    elements: int
    work: int
    affine: bool
    image: tuple[int, ...] | None
    """Reduced spatial sizes for the leaves; None where they keep their own."""
    constants: list[float]
    """Numbers in its calls."""
    tables: list[int]
    """Rows of the tables that it looks values up in."""

    @property
    def heavy(self) -> bool:
        """Whether few runs are made of it."""
        return self.elements > _HEAVY or self.work > _HEAVY_WORK


class Profiler:
    """Profiles of regions between two programs, each computed once."""

    def __init__(self, before: Program, after: Program, work: Work) -> None:
        self._places, self._work = Places(before, after), work
        self._made: dict[Region, Profile] = {}

    def of(self, region: Region, sizes: dict[sympy.Symbol, int]) -> Profile:
        """The profile, with sizes of the dynamic dims."""
        if region not in self._made:
            self._made[region] = self._make(region, sizes)
        return self._made[region]

    def _make(self, region: Region, sizes: dict[sympy.Symbol, int]) -> Profile:
        values = [leaf.meta["val"] for leaf in region.leaves]
        shapes = [[size_with(n, sizes) for n in v.shape] for v in values if isinstance(v, torch.Tensor)]
        image = self._places.smaller(region, shapes)
        share = math.prod(image) / math.prod(shapes[0][2:]) if image else 1.0
        return Profile(
            round(share * sum(map(math.prod, shapes))),
            round(share * self._work.of(region)),
            is_affine(region),
            image,
            constants_in((*region.new, *region.old)),
            _table_rows(region),
        )


def in_image(shape: Sequence[int], image: tuple[int, ...] | None) -> list[int]:
    """A leaf's shape, [N, C, *spatial], with no more pixels than an image has."""
    return list(shape) if image is None else [*shape[:2], *map(min, shape[2:], image)]


def _table_rows(region: Region) -> list[int]:
    tables = [n for n in region.old if n.op == "call_function" and op_name(n).startswith("aten.embedding")]
    return [int(arguments(n)["weight"].meta["val"].shape[0]) for n in tables]
