"""Masks of attention as ONNX Runtime's kernel takes them: finite numbers that are added to the scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxopt.backends.onnx.shaped_calls import call, size_of
from fxopt.ir.printer import op_name
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import size_expressions

_LEAST = torch.finfo(torch.float32).min
"""In place of -inf, of which a row of nothing else would become NaN."""
aten = torch.ops.aten


@dataclass(frozen=True)
class Mask:
    """What is ``added``, ``[1 or N, 1 or heads, queries, keys]``, None for nothing, and which queries are left a key.

    ``keeps`` is 1 for these and 0 for others, to which torch gives zeros, ``[1 or N, 1 or heads, queries or 1, 1]``; None if all
    are.
    """

    added: fx.Node | None = None
    keeps: fx.Node | None = None


class Masks:
    """The masks of a program, each made in front of the first layer that it is for."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._made: dict[Any, Mask] = {}

    def of(self, given: fx.Node, query: fx.Node, key: fx.Node, before: fx.Node) -> Mask:
        """The mask ``given`` to scores of ``query`` and ``key``, boolean or added, made in front of the call ``before``."""
        source = given
        while op_name(source) == "aten.expand":
            source = source.args[0]  # type: ignore[assignment]
        sizes = size_expressions((query.meta["val"].shape[2], key.meta["val"].shape[2]))
        place = (source, *sizes)
        if place not in self._made:
            stored = self._program.tensor(source)
            if stored is None:
                self._made[place] = self._computed(given, query, key)
            else:
                self._made[place] = self._of_stored(stored.detach(), given, query, key, before)
        return self._made[place]

    def stored(self, mask: torch.Tensor, before: fx.Node) -> Mask:
        """Of a stored one ``[1, 1 or heads, queries, keys]``."""
        added = _added(mask)
        keeps = (added > -math.inf).any(-1, keepdim=True)
        made = self._program.add_tensor(f"{before.name}_mask", added.clamp_min(_LEAST).contiguous(), before)
        if bool(keeps.all()):
            return Mask(made)
        return Mask(made, self._program.add_tensor(f"{before.name}_keeps", keeps.float(), before))

    def _of_stored(self, mask: torch.Tensor, given: fx.Node, query: fx.Node, key: fx.Node, before: fx.Node) -> Mask:
        if not bool(_added(mask).any()):
            return Mask()
        mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
        sizes = query.meta["val"].shape[2], key.meta["val"].shape[2]
        if mask.shape[0] != 1 or not all(isinstance(size, int) for size in sizes):
            return self._computed(given, query, key)
        return self.stored(mask.expand(1, -1, *sizes), before)

    def _computed(self, mask: fx.Node, query: fx.Node, key: fx.Node) -> Mask:
        program = self._program
        for _ in range(4 - mask.meta["val"].dim()):
            mask = call(program, aten.unsqueeze.default, mask, 0)
        if mask.meta["val"].dtype == torch.bool:
            barred = _as_float(program, call(program, aten.logical_not.default, mask))
            added, open_ = call(program, aten.mul.Tensor, barred, _LEAST), mask
        else:
            added = call(program, aten.clamp.default, mask, _LEAST)
            open_ = call(program, aten.gt.Scalar, mask, -math.inf)
        keeps = _as_float(program, call(program, aten.any.dim, open_, -1, True))
        sizes = [query.meta["val"].shape[2], key.meta["val"].shape[2]]
        if size_expressions(added.meta["val"].shape[2:]) != size_expressions(sizes):
            wanted = [size_of(program, query, 2), size_of(program, key, 2)]
            added = call(program, aten.expand.default, added, [-1, -1, *wanted])
        return Mask(added, keeps)


def _added(mask: torch.Tensor) -> torch.Tensor:
    return mask if mask.is_floating_point() else torch.zeros(mask.shape).masked_fill(~mask, -math.inf)


def _as_float(program: Program, node: fx.Node) -> fx.Node:
    return call(program, aten._to_copy.default, node, dtype=torch.float32)
