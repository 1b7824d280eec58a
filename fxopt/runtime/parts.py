"""A batch that is larger than an artifact was built for, run in parts."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxopt.backend import Manifest, Runner

BATCH = "batch"
"""What the first dim of inputs is called in a manifest."""


def run_in_parts(run: Runner, arrays: list[Any], manifest: Manifest) -> list[Any]:
    """Run on flat arrays, in parts of nearly one size where the batch is above its upper bound and the manifest allows it."""
    if not manifest.splits:
        return run(arrays)
    batched = [bool(fact.shape) and fact.shape[0] == BATCH for fact in manifest.tensors]
    largest = manifest.dims[BATCH][1]
    size = next(len(array) for array, is_batched in zip(arrays, batched, strict=True) if is_batched)
    if largest is None or size <= largest:
        return run(arrays)
    count = -(-size // largest)
    cut = [
        np.array_split(array, count) if is_batched else [array] * count
        for array, is_batched in zip(arrays, batched, strict=True)
    ]
    parts = [run(list(part)) for part in zip(*cut, strict=True)]
    return [np.concatenate(same) for same in zip(*parts, strict=True)]
