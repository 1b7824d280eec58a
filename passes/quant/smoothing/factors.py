"""Factors that inputs of linears are divided by, those of SmoothQuant among them, and the weights that absorb them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import fx

from fxopt.passes.quant.smoothing.needs import AS_IT_IS, ONE, Needs

SMALLEST, LARGEST = 1e-5, 1e5
"""A channel with a factor outside stays: one that is almost never active would be blown up from little evidence."""
CLOSE = 1e-3
"""A factor whose logarithm is smaller is taken for 1: a second run, which differs by rounding, changes nothing."""
SMOOTH = "its factor would be 1"
Proposal = Callable[[torch.Tensor, dict[fx.Node, torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]
"""Given which factors are asked for, and the factor of each column of the weights that read them: factors, and which are zero."""
_AGAIN = "the same factors come again after a linear that reads it"


@dataclass
class Factors:
    """Labels as indices of factors, ``s`` float64 by index, and by index why a factor is 1."""

    needs: Needs
    number: torch.Tensor
    s: torch.Tensor
    reasons: dict[int, str] = field(default_factory=dict)

    @classmethod
    def unsolved(cls, needs: Needs) -> Factors:
        """All factors 1, the pinned ones with the reason."""
        pairs = torch.cat([torch.empty(0, 2, dtype=torch.int64), *needs.equal]).numpy()
        edges = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (needs.count, needs.count))
        count, number = connected_components(edges, directed=False)
        made = cls(needs, torch.from_numpy(number).long(), torch.ones(count, dtype=torch.float64))
        for labels, reason in needs.pinned:
            for one in made.number[labels].unique().tolist():
                made.reasons.setdefault(one, reason)
        return made

    def left(self, weight: fx.Node) -> Counter[str]:
        """Why columns of a weight have the factor 1: how many there are for each reason."""
        numbers = self.number[self.needs.columns[weight]].tolist()
        return Counter(self.reasons[one] for one in numbers if one in self.reasons)

    def solve(self, weights: list[fx.Node], propose: Proposal) -> None:
        """The factors that ``propose`` gives for all columns of ``weights``, in order of first use.

        The last weights are solved first: their factors divide rows of the weights before them, so that a second run finds
        the same ranges. Factors that divide rows of the very weights they come from have no such order, and stay 1.
        """
        numbers = [self.number[self.needs.columns[w]] for w in weights]
        first = torch.full(self.s.shape, -1)
        for i in reversed(range(len(weights))):
            first[numbers[i]] = i
        first[list(self.reasons)] = -1
        solved = first == -1
        for i in reversed(range(len(weights))):
            mine = first == i
            for weight, number in zip(weights, numbers, strict=True):
                if not bool(solved[self._rows(weight)].all()):
                    stuck = mine & torch.zeros_like(mine).index_fill(0, number, True)
                    self._leave(stuck, _AGAIN)
                    mine = mine & ~stuck
            if bool(mine.any()):
                both = {w: number for w, number in zip(weights, numbers, strict=True) if bool(mine[number].any())}
                self._accept(mine, *propose(mine, both))
            solved |= first == i

    def _accept(self, mine: torch.Tensor, s: torch.Tensor, zero: torch.Tensor) -> None:
        far = (s < SMALLEST) | (s > LARGEST)
        for here, reason in (
            (zero, "what it reads, or its weight, is zero there"),
            (s.log().abs() < CLOSE, SMOOTH),
            (far, f"its factor would be beyond {SMALLEST:g} … {LARGEST:g}"),
        ):
            self._leave(mine & here, reason)
            mine = mine & ~here
        self.s[mine] = s[mine]

    def by_range(self, peaks: dict[fx.Node, torch.Tensor], alpha: float) -> Proposal:
        """s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) (eq. 4); ``peaks`` has max|X_j| by weight, float64 ``[in]``.

        A factor of several columns is that of the maxima over them.
        """

        def propose(mine: torch.Tensor, numbers: dict[fx.Node, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            x, w = torch.zeros_like(self.s), torch.zeros_like(self.s)
            for weight, number in numbers.items():
                x.scatter_reduce_(0, number, peaks[weight], "amax")
                w.scatter_reduce_(0, number, self._column_peaks(weight), "amax")
            return x**alpha / w ** (1 - alpha), (x == 0) | (w == 0)

        return propose

    def _leave(self, these: torch.Tensor, reason: str) -> None:
        self.reasons |= dict.fromkeys(these.nonzero().flatten().tolist(), reason)

    def _rows(self, weight: fx.Node) -> torch.Tensor:
        """The factors that rows of a weight are divided by."""
        need = self.needs.values.get(weight, AS_IT_IS)
        return self.number[need[need > ONE]]

    def _column_peaks(self, weight: fx.Node) -> torch.Tensor:
        """max|W_j| of the weight as it is so far, its rows divided: float64 ``[in]``."""
        tensor = self.needs.program.tensor(weight)
        assert tensor is not None
        rows = self.divisor(self.needs.values.get(weight, AS_IT_IS))
        peaks = (tensor.detach().abs() / rows.to(tensor.dtype)).amax(0).double()
        if not bool(peaks.isfinite().all()):
            raise self.needs.program.fail(weight, "the weight holds NaN or infinity")
        return peaks

    def divisor(self, need: torch.Tensor) -> torch.Tensor:
        """The factor of every element of a need, 1 where it has none."""
        return torch.where(need > ONE, self.s[self.number[need.clamp(min=ONE)]], 1.0)

    def tensors(self) -> dict[fx.Node, torch.Tensor]:
        """The weights that change, computed in float64 and rounded to their own dtype."""
        changed: dict[fx.Node, torch.Tensor] = {}
        for weight in dict.fromkeys([*self.needs.values, *self.needs.columns]):
            tensor, columns = self.needs.program.tensor(weight), self.needs.columns.get(weight)
            assert tensor is not None
            total = torch.ones((), dtype=torch.float64) if columns is None else self.s[self.number[columns]]
            total = total / self.divisor(self.needs.values.get(weight, AS_IT_IS))
            if bool((total != 1).any()):
                changed[weight] = (tensor.detach().double() * total).to(tensor.dtype)
        return changed
