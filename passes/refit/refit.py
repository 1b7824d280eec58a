"""Refit layers one after another to the outputs of the original's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from fxopt.ir.program import Program
from fxopt.passes.common.layer_rows import MatrixLayer
from fxopt.passes.common.singular_values import numerical_rank, squares
from fxopt.passes.common.weight_modes import Kind, SplitWeight
from fxopt.passes.refit.coded import real
from fxopt.passes.refit.counterparts import Counterpart
from fxopt.passes.refit.sums import Sums, summed
from fxopt.support.progress import progress_bar
from fxopt.workload import Workload

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths to choose from, in mean squares of a layer's input."""

_FEWEST_ROWS = 10
_MOST_COLUMNS = 16384


@dataclass(frozen=True)
class Refit:
    """A layer's error, norm of the difference over norm of the output, on rows that were not fitted: before and after."""

    node: str
    zeroed: float
    refitted: float


def refit(
    original: Program,
    program: Program,
    workload: Workload | None,
    pairs: Sequence[Counterpart],
    *,
    samples: int,
    who: str,
    positions: int = 10,
    ridge: float | None = None,
    device: str = "cpu",
) -> list[Refit]:
    """Fit the weights of layers of ``program`` in place to the outputs of their counterparts in ``original``.

    With Y the output of the original's layer, and X the layer's present input, with the layers before it refitted already,
    the weight becomes W + Δ with the least ‖Y - X(W + Δ)‖² + λ‖Δ‖² (He, Zhang & Sun 2017, eq. 1, its second step; that X is
    the present input, and Y the original's output, is the asymmetric reconstruction of Zhang et al. 2016, section 3.3;
    shrinking towards the present weights instead of 0 keeps what few rows cannot determine). Zeros of W stay zero. Of a
    quantized weight the scales are fitted. The bias, where there is one, is refitted too. λ is ``ridge`` times the mean
    square of the input; by default it is chosen by the examples that every fit holds out, one in five, and where no fit
    is better on them than none, the layer stays as it is. X has ``positions`` rows for each of ``samples`` training
    examples (10 in the paper).

    Both programs run over the examples, on ``device``, once for every layer on the longest path, up to that layer. Only sums
    over rows are kept, so memory does not grow with the examples. Raises DataError in the name of ``who`` without usable data.
    """
    done = []
    with progress_bar(who, len(pairs)) as advance:
        for level in _levels(program, _refittable(program, pairs)):
            sums = summed(original, program, workload, level, positions, samples, who, device)
            for pair in level:
                found = _fitted(program, pair, sums[pair.layer.node], RIDGES if ridge is None else (ridge,))
                done += [found] if isinstance(found, Refit) else []
                if isinstance(found, str):
                    program.skip(pair.layer.node, f"not refitted: {found}")
                advance(1)
    return done


def _refittable(program: Program, pairs: Sequence[Counterpart]) -> list[Counterpart]:
    """The layers whose equations fit into memory, and whose weight has no structure but zeros; the others get the reason."""
    kept = []
    for pair in pairs:
        layer, tensor = pair.layer, real(program, pair.layer.weight)
        columns = layer.matrix(tensor)[0, 0].numel()
        if columns > _MOST_COLUMNS:
            program.skip(layer.node, f"not refitted: each output reads {columns:,} numbers, {_MOST_COLUMNS:,} at most")
        elif pair.coded is None and _has_low_rank(layer, tensor):
            program.skip(layer.node, "not refitted: its weight has a low rank, which would be filled: factorize first")
        else:
            kept.append(pair)
    return kept


def _has_low_rank(layer: MatrixLayer, tensor: torch.Tensor) -> bool:
    """Whether at some cut the weight has a lower rank than another with zeros in the same places."""
    kind: Kind = "convolution" if tensor.dim() > 2 else "matrix"
    other = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor.dtype) * (tensor != 0)
    weights = [SplitWeight(("",), t, (layer.node,), kind, layer.groups, layer.transposed) for t in (tensor, other)]
    for cut in range(1, len(weights[0].modes)):
        here, there = (numerical_rank(squares(weight.canonical(), cut)) for weight in weights)
        if here < there:
            return True
    return False


def _levels(program: Program, pairs: Sequence[Counterpart]) -> Iterator[list[Counterpart]]:
    """The layers by how many others precede each on the longest path, so that none of a level reads another."""
    wanted, depth = {pair.layer.node: pair for pair in pairs}, dict[fx.Node, int]()
    levels: dict[int, list[Counterpart]] = {}
    for node in program.graph.nodes:
        before = max((depth[source] for source in node.all_input_nodes), default=0)
        depth[node] = before + (node in wanted)
        if node in wanted:
            levels.setdefault(before, []).append(wanted[node])
    yield from (levels[key] for key in sorted(levels))


def _fitted(program: Program, pair: Counterpart, sums: Sums, ridges: Sequence[float]) -> Refit | str:
    """Fit one layer and store its weight; or the reason why it stays."""
    layer, coded = pair.layer, pair.coded
    weight = real(program, layer.weight)
    bias = None if layer.bias is None else real(program, layer.bias)
    if sums.fit.rows + sums.held.rows < _FEWEST_ROWS or not sums.held.rows:
        return f"there are too few rows of data, {sums.fit.rows + sums.held.rows}"
    fit, held = sums.fit, sums.held
    if coded is None:
        free = layer.matrix(weight).flatten(2).mT != 0  # [groups, in · kernel, out]
    else:
        rows = layer.matrix(weight)[0, :, :, 0].double()
        fit, held = fit.of_blocks(rows, coded.block), held.of_blocks(rows, coded.block)
        free = fit.gram.diagonal(dim1=1, dim2=2)[:, :-1, None] > 0  # [out, blocks, 1]
    if not bool(free.any()):
        return "all of its weight is zero"
    shifted = free.any(1, keepdim=True) if bias is not None else torch.zeros_like(free[:, :1])
    free = torch.cat([free, shifted], 1)
    errors = {ridge: held.error(fit.solved(free, ridge)) for ridge in ridges}
    best = min(errors, key=errors.__getitem__)
    if not errors[best] < held.squares * (1 - 1e-9):
        return "on held-out examples it would be no better"
    change = (fit + held).solved(free, best)
    if coded is None:
        matrix = layer.matrix(weight).double() + change[:, :-1].mT.reshape(layer.matrix(weight).shape)
        program.set_tensor(str(layer.weight.target), layer.stored(matrix, weight))
    else:
        scales = real(program, coded.scales)
        program.set_tensor(str(coded.scales.target), (scales * (1 + change[:, :-1, 0])).to(scales.dtype))
    if layer.bias is not None and bias is not None:
        program.set_tensor(str(layer.bias.target), (bias.double() + change[:, -1].flatten()).to(bias.dtype))
    whole = max(sums.output, torch.finfo(torch.float64).tiny)
    return Refit(layer.node.name, (held.squares / whole) ** 0.5, (max(errors[best], 0.0) / whole) ** 0.5)
