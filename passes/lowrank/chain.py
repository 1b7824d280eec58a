"""Chains that a weight can be split into, what they cost, and which one is cheapest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import fx

from fxopt.ir.op_table import Shape, arguments
from fxopt.ir.printer import op_name
from fxopt.passes.common.weight_modes import Piece, SplitWeight
from fxopt.passes.lowrank.find_weights import OPERANDS


@dataclass(frozen=True)
class Chain:
    """A tensor train: cuts in order, and the rank at each, in every group. Without cuts it is the layer itself."""

    cuts: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()

    def pieces(self, weight: SplitWeight) -> list[Piece]:
        """The layers of the chain. Kernel dims of size 1, with their strides, go to the layer that then reads fewer values."""
        bounds = [0, *self.cuts, len(weight.modes)]
        widths = [weight.modes[0], *self.ranks, weight.modes[-1]]
        wide, found = weight.wide, []
        for k, (start, stop) in enumerate(itertools.pairwise(bounds)):
            dims = tuple(wide[m - 1] for m in range(start, stop) if 0 < m <= len(wide))
            if k == (len(self.cuts) if weight.kind == "transposed" else 0):
                dims += tuple(d for d in range(len(weight.kernel)) if d not in wide)
            found.append(Piece(weight.groups, widths[k], widths[k + 1], dims))
        return found

    def __str__(self) -> str:
        return f"rank {' and '.join(map(str, self.ranks))}"


def cp_pieces(weight: SplitWeight, rank: int) -> list[Piece]:
    """The layers of the CP form: 1x1, one depthwise for each long dim of the kernel, 1x1."""
    narrow = tuple(d for d in range(len(weight.kernel)) if d not in weight.wide)
    ends = ((), narrow) if weight.kind == "transposed" else (narrow, ())
    middle = [Piece(rank, 1, 1, (d,)) for d in weight.wide]
    return [Piece(1, weight.modes[0], rank, ends[0]), *middle, Piece(1, rank, weight.modes[-1], ends[1])]


@dataclass(frozen=True)
class Price:
    """What chains for a weight cost: multiply-accumulates over all its readers, and elements of weights."""

    weight: SplitWeight
    shape: Shape

    def macs(self, pieces: Iterable[Piece]) -> int:
        """Multiply-accumulates for the example inputs."""
        pieces = list(pieces)
        return sum(self._reader(node, pieces) for node in self.weight.readers)

    def params(self, pieces: Iterable[Piece]) -> int:
        """Elements of weights."""
        return sum(self._elements(piece) for piece in pieces)

    def size(self, pieces: Iterable[Piece]) -> int:
        """The cost to reduce: MACs; elements where only embeddings read the weight, which multiply nothing."""
        pieces = list(pieces)
        return self.macs(pieces) if self.macs(Chain().pieces(self.weight)) else self.params(pieces)

    def cheapest(self, ranks: Mapping[int, int]) -> Chain:
        """The chain of least size of a weight that has such ranks at such cuts; no cuts if none is smaller than that."""
        weight = self.weight
        low = [cut for cut in sorted(ranks) if ranks[cut] < weight.full(cut)]
        subsets = (cuts for n in range(len(low) + 1) for cuts in itertools.combinations(low, n))
        chains = [Chain(cuts, _consistent(weight.modes, cuts, ranks)) for cuts in subsets]
        return min(chains, key=lambda chain: self.size(chain.pieces(weight)))

    def _elements(self, piece: Piece) -> int:
        return piece.groups * piece.ins * piece.outs * math.prod(self.weight.kernel[d] for d in piece.dims)

    def _reader(self, node: fx.Node, pieces: list[Piece]) -> int:
        weight, shape = self.weight, self.shape
        given = shape(node)
        read = shape(arguments(node)[OPERANDS[op_name(node)][0]])
        if op_name(node) == "aten.embedding":
            return math.prod(given) * pieces[0].outs if len(pieces) > 1 else 0
        if weight.kind == "matrix":
            return math.prod(given[:-1]) * sum(map(self._elements, pieces))
        n = len(weight.kernel)
        sizes, after = list(read[-n:]), given[-n:]
        total = 0
        for piece in pieces:  # a product for each position that a layer gives, or that a transposed one reads
            before = math.prod(sizes)
            for d in piece.dims:
                sizes[d] = after[d]
            total += self._elements(piece) * (before if weight.kind == "transposed" else math.prod(sizes))
        return total * math.prod(read[: -n - 1])


def _consistent(modes: tuple[int, ...], cuts: tuple[int, ...], ranks: Mapping[int, int]) -> tuple[int, ...]:
    """Feasible ranks of a train: none larger than its neighbour times the modes between them."""
    bounds, kept = [0, *cuts, len(modes)], [1, *(ranks[cut] for cut in cuts), 1]
    between = [math.prod(modes[a:b]) for a, b in itertools.pairwise(bounds)]
    for k in range(1, len(kept) - 1):
        kept[k] = min(kept[k], kept[k - 1] * between[k - 1])
    for k in range(len(kept) - 2, 0, -1):
        kept[k] = min(kept[k], kept[k + 1] * between[k])
    return tuple(kept[1:-1])
