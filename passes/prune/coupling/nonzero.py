"""Which elements of a weight are not zero, looked at no further than an answer needs."""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray

_Mask = NDArray[np.bool_]

_FEW = 64
_FIRST = 1 << 12
_CHUNK = 1 << 16
"""Elements that are looked at together: a few at first, as of a dense weight these tell it all; then what a cache holds."""

_BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def any_nonzero(elements: torch.Tensor) -> torch.Tensor:
    """Whether any element along the last dim is not zero, NaN among them; the first few are tried before all."""
    bits, ones = _bits_of(elements)
    found = np.asarray(np.bitwise_or.reduce(bits[..., :_FEW], -1) & ones != 0)
    if bits.shape[-1] > _FEW and not found.all():
        found[~found] = np.bitwise_or.reduce(bits[~found], -1) & ones != 0
    return torch.from_numpy(found)


def _bits_of(elements: torch.Tensor) -> tuple[NDArray[np.signedinteger], int]:
    """Integers that are zero, but for bits that the number lacks, where an element is: of many of them "or" tells it at once."""
    kind = _BITS.get(elements.dtype)
    if kind is None:
        return (elements != 0).to(torch.int8).numpy(), -1
    return elements.view(kind).numpy(), torch.iinfo(kind).max  # all bits but that of the sign


class Nonzero:
    """The elements of a weight as ``[block, row, index, position]``; an index is read by a row of its own block."""

    def __init__(self, elements: torch.Tensor) -> None:
        self.blocks, self.rows, self.indices, _ = elements.shape
        self._bits, self._ones = _bits_of(elements)

    def read(self, rows: _Mask, wanted: _Mask) -> _Mask:
        """Which of the ``wanted`` indices, ``[block · index]``, some of ``rows``, ``[block · row]``, reads."""
        if self.blocks == 1:
            return self._met(self._bits[0], np.flatnonzero(rows), wanted)
        return (self._all & rows.reshape(self.blocks, -1, 1)).any(1).ravel() & wanted

    def reading(self, indices: _Mask, wanted: _Mask) -> _Mask:
        """Which of the ``wanted`` rows, ``[block · row]``, read some of ``indices``, ``[block · index]``."""
        if self.blocks == 1:
            return self._met(self._bits[0].swapaxes(0, 1), np.flatnonzero(indices), wanted)
        return (self._all & indices.reshape(self.blocks, 1, -1)).any(2).ravel() & wanted

    @functools.cached_property
    def _all(self) -> _Mask:
        """Every element at once, for blocks, which are small."""
        return np.asarray(((self._bits & self._ones) != 0).any(3))

    def _met(self, bits: NDArray[np.signedinteger], lines: NDArray[np.int64], wanted: _Mask) -> _Mask:
        """For ``bits[line, place, position]``, which wanted places are not zero on some of the lines."""
        found = np.zeros_like(wanted)
        start, size = 0, _FIRST
        while start < len(lines) and (left := np.flatnonzero(wanted & ~found)).size:
            few = 4 * len(left) < len(wanted)
            step = max(1, size // ((len(left) if few else len(wanted)) * bits.shape[2]))
            chunk = bits[lines[start : start + step]]
            seen = np.bitwise_or.reduce(chunk[:, left] if few else chunk, 0) & self._ones
            if few:
                found[left] = (seen != 0).any(1)
            else:
                found = (seen != 0).any(1) & wanted | found
            start, size = start + step, _CHUNK
        return found
