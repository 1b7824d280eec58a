"""GPTQ: weights rounded one input after the other, with the error of each compensated by the later inputs."""

from __future__ import annotations

import torch

from fxopt.passes.quant.weight_only.blocks import BlockCodes, Grid, nearest

_DAMPING = 0.01
_COLUMNS = 128


def gptq(rows: torch.Tensor, products: torch.Tensor, grid: Grid) -> BlockCodes:
    """``rows`` W float32 [out, in] quantized with little error ‖(W - Q)X‖², given ``products`` X·Xᵀ float64 [in, in].

    Algorithm 1 of Frantar et al. 2023, with the damping of its section 3.3: 1 % of the mean square of an input. The scale
    of a block is computed when its first input is reached, from the updated weights. An input that was always
    zero is rounded to nearest. So is a row that has less error that way: the method is greedy, and can lose.
    """
    inputs = rows.shape[1]
    plain = nearest(rows, grid)
    left, factor = rows.detach().double().clone(), _factor(products)
    codes = torch.zeros_like(plain.integers, dtype=torch.float64)
    scales = plain.scales.clone()
    whole = grid.block == inputs
    step = _COLUMNS if whole else grid.block
    for start in range(0, inputs, step):
        columns = slice(start, min(start + step, inputs))
        if not whole:
            scales[:, start // step] = grid.scales(left[:, columns])
        scale = scales[:, 0 if whole else start // step]
        codes[:, columns], errors = _round_columns(left[:, columns], scale, factor[columns, columns], grid)
        left[:, columns.stop :] -= errors @ factor[columns, columns.stop :]
    found = BlockCodes(codes.to(torch.int8), scales, grid, inputs)
    better = (_errors(rows, found, products) < _errors(rows, plain, products)).unsqueeze(1)
    integers = torch.where(better, found.integers, plain.integers)
    return BlockCodes(integers, torch.where(better, found.scales, plain.scales), grid, inputs)


def _factor(products: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the inverse of the damped products."""
    damped, squares = products.clone(), products.diagonal()
    damped.diagonal().add_(_DAMPING * squares.mean())
    damped.diagonal()[squares == 0] = 1  # its row and column are zero otherwise, so any value will do
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def _round_columns(
    weights: torch.Tensor, scale: torch.Tensor, factor: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers and weighted errors [out, n] of ``weights`` [out, n], rounded from left to right."""
    left, codes, errors = weights.clone(), torch.empty_like(weights), torch.empty_like(weights)
    for j in range(weights.shape[1]):
        codes[:, j] = grid.codes(left[:, j], scale)
        errors[:, j] = (left[:, j] - codes[:, j] * scale.double()) / factor[j, j]
        left[:, j + 1 :] -= torch.outer(errors[:, j], factor[j, j + 1 :])
    return codes, errors


def _errors(rows: torch.Tensor, codes: BlockCodes, products: torch.Tensor) -> torch.Tensor:
    """Squared error [out] of each output over all inputs."""
    lack = rows.detach().double() - codes.real().double()
    return ((lack @ products) * lack).sum(1)
