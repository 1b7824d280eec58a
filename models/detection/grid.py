"""Where a head without anchors looks: the positions of its outputs, and boxes from its codes. Numpy alone."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

STRIDES = (8, 16)
"""Pixels between two positions, for each resolution that the head reads."""
LARGEST_CODE = 6.0
"""Codes are logarithms: above this one a box is larger than any image."""

_Array = np.ndarray[Any, Any]


class Positions(NamedTuple):
    """Positions in the order of the outputs: ``centres`` float32 [P,2] as x and y in pixels, ``strides`` float32 [P]."""

    centres: _Array
    strides: _Array


@functools.lru_cache(maxsize=16)
def positions(high: int, wide: int) -> Positions:
    """Those of an image of this height and width: resolution after resolution, row after row."""
    centres, strides = [], []
    for stride in STRIDES:
        rows, columns = -(-high // stride), -(-wide // stride)
        y, x = np.mgrid[:rows, :columns].reshape(2, -1)
        centres.append((np.stack([x, y], 1) + 0.5) * stride)
        strides.append(np.full(rows * columns, stride))
    return Positions(np.concatenate(centres).astype(np.float32), np.concatenate(strides).astype(np.float32))


def decode(codes: _Array, high: int, wide: int) -> _Array:
    """Boxes [N,P,4] as left, top, right, bottom, cut at the border, from codes [N,4,P].

    A code is the logarithm of a side's distance from the position, in strides (Tian et al. 2019, "FCOS", section 3.1).
    """
    centres, strides = positions(high, wide)
    far = np.exp(np.minimum(codes, LARGEST_CODE)).transpose(0, 2, 1) * strides[:, None]
    boxes = np.concatenate([centres - far[..., :2], centres + far[..., 2:]], -1)
    return np.clip(boxes, 0, np.array([wide, high, wide, high], np.float32))
