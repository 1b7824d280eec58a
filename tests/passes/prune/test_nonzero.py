"""Which elements of a weight are not zero: the oracle compares every element with zero.

It would catch an answer that stops too early, a chunk that is left out, a sign of zero that counts, and blocks that are mixed up.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxopt.passes.prune.coupling.nonzero import Nonzero

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.sampled_from(DTYPES),
    st.sampled_from([(1, 300, 40, 9), (1, 40, 3000, 1), (1, 1, 1, 1), (4, 6, 5, 9)]),
    st.sampled_from([0.0, 0.001, 0.5, 1.0]),
)
def test_what_is_read_is_what_is_not_zero(seed, dtype, shape, density):
    random = np.random.default_rng(seed)
    kept = random.random(shape) < density
    elements = torch.from_numpy(np.where(kept, random.choice([-3.0, 1.0], shape), -0.0)).to(dtype)
    if seed % 2 and shape[0] == 1:  # stored in another order, as the weight of a matmul is
        elements = elements.transpose(1, 2).contiguous().transpose(1, 2)
    blocks, rows, indices, _ = shape
    here, wanted = random.random(blocks * rows) < 0.5, random.random(blocks * indices) < 0.5
    met = kept.any(3)
    found = Nonzero(elements)
    read = (met & here.reshape(blocks, rows, 1)).any(1).ravel() & wanted
    assert np.array_equal(found.read(here, wanted), read)
    reading = (met & wanted.reshape(blocks, 1, indices)).any(2).ravel() & here
    assert np.array_equal(found.reading(wanted, here), reading)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e-45])
def test_whatever_is_not_zero_counts(number):
    elements = torch.zeros(1, 2, 3, 1)
    elements[0, 1, 2] = number
    assert Nonzero(elements).read(np.ones(2, bool), np.ones(3, bool)).tolist() == [False, False, True]
