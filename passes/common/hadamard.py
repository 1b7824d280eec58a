"""Orthogonal bases that spread what a few channels hold over all of them."""

from __future__ import annotations

import torch
from scipy.linalg import hadamard

_SEED = 0


def hadamard_basis(n: int) -> torch.Tensor:
    """A Hadamard matrix with random signs of its columns, from a fixed seed, as rows of a basis: float64 ``[n, n]``.

    With n = 2^k · m, m odd, it is the Kronecker product of the Hadamard matrix of 2^k and a random orthogonal one of m: a
    single channel is spread over 2^k or more (Ashkboos et al. 2024, QuaRot, section 3; Tseng et al. 2024, QuIP#).
    """
    generator = torch.Generator().manual_seed(_SEED)
    power = n & -n
    regular = torch.from_numpy(hadamard(power, dtype=float)) / power**0.5
    rest = torch.linalg.qr(torch.randn(n // power, n // power, generator=generator, dtype=torch.float64)).Q
    signs = torch.randint(2, (n,), generator=generator, dtype=torch.float64) * 2 - 1
    return torch.kron(regular.contiguous(), rest.contiguous()) * signs
