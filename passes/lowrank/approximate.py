"""Store approximations in place of weights."""

from __future__ import annotations

import math

import torch
from torch import fx

from fxopt.ir.program import Program
from fxopt.passes.common.weight_modes import SplitWeight
from fxopt.passes.lowrank.chain import Chain, Price, cp_pieces
from fxopt.passes.lowrank.rank_points import Choices, choices
from fxopt.passes.lowrank.tensors import cp, cp_sum, product, train, tucker
from fxopt.passes.lowrank.whitening import Whitening

CP_FACTORS = "cp_factors"
"""In the meta of a weight's node, the factors ``[mode, rank]`` float64 whose CP form the weight was given.

Other forms can be read off a weight. The CP form cannot: which outer products a tensor is the sum of is NP-hard to find
(Håstad 1990), and alternating least squares from another start end at another sum. Readers check that they still fit.
"""


def approximate(program: Program, choices: Choices, chain: Chain) -> None:
    """Truncate a weight of ``program`` to the ranks of a chain."""
    weight = choices.weight
    if choices.form == "tucker" and len(chain.ranks) == 2:
        found = tucker(choices.tensor, (chain.ranks[0], chain.ranks[1]))
    else:
        found = product(weight, train(weight, choices.tensor, chain))
    if choices.whitening:
        found = choices.whitening.undo(found)
    program.set_tensor(weight.names[0], weight.restored(found))


def approximate_cp(
    program: Program,
    price: Price,
    tensor: torch.Tensor,
    whitening: Whitening | None,
    rank: int | None,
    share: float,
    multiple: int,
) -> None:
    """Give a weight the CP form of this rank, or of the largest whose size is that ``share`` of the layer's.

    Where alternating least squares diverge, it gets the Tucker form of that size, and that is reported.
    """
    weight, layer = price.weight, price.weight.readers[0]
    if weight.groups > 1:
        program.skip(layer, "the CP form of a grouped convolution is none of its groups' forms; another form splits it")
        return
    dense, one = (price.size(pieces) for pieces in (Chain().pieces(weight), cp_pieces(weight, 1)))
    limit = dense - 1 if rank is not None else int(share * dense)
    terms = rank if rank is not None else limit // one // multiple * multiple
    terms = math.ceil(terms / multiple) * multiple
    if not 0 < terms * one <= limit:
        program.skip(layer, f"a CP form of rank {max(terms, 1)} would not be smaller")
        return
    factors = cp(tensor[0], terms)
    if factors is not None:
        if whitening:
            factors[0] = whitening.inverse[0].T @ factors[0]
        program.set_tensor(weight.names[0], weight.restored(cp_sum(factors)[None]))
        _node(program, weight).meta[CP_FACTORS] = factors
        return
    tucker_form = choices(weight, price, tensor, whitening, "tucker", multiple)
    assert not isinstance(tucker_form, str)
    point = tucker_form.largest(terms * one)
    instead = f"it got the Tucker form, {point.chain}" if point else "no Tucker form is as small"
    program.skip(layer, f"the CP form of rank {terms} diverged: {instead}")
    if point:
        approximate(program, tucker_form, point.chain)


def cp_factors(program: Program, weight: SplitWeight) -> list[torch.Tensor] | None:
    """The factors of a weight that truncate_rank gave a CP form, if its node has them; a file does not keep them."""
    found = [node.meta[CP_FACTORS] for node in program.graph.nodes
             if program.tensor(node) is weight.tensor and CP_FACTORS in node.meta]  # fmt: skip
    return found[0] if found else None


def _node(program: Program, weight: SplitWeight) -> fx.Node:
    return next(node for node in program.graph.nodes if str(node.target) == weight.names[0] and node.op == "get_attr")
