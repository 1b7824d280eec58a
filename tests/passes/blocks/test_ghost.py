"""Which channels a ghost layer computes, and what it makes of them: against a layer made that way, and against all choices."""

import itertools

import numpy as np
import pytest
import torch
from cases.block_entries import built, double, entry, error, samples_of
from cases.block_models import seeded
from torch import nn
from torch.nn import functional as F

from fxopt.ir.cost import cost
from fxopt.passes.blocks.entries.ghost import chosen, pairwise_fits


@pytest.mark.parametrize("ratio", [2, 4])
@pytest.mark.parametrize("padding", [1, "same"])
def test_channels_made_of_others_are_found_among_shuffled_ones(ratio, padding):
    """Kernels of one pixel, filtered by 3x3 ones: a dense layer that is a ghost layer. Which channels are which is shuffled."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(3, 5, 1, 1, generator=generator, dtype=torch.float64)
    cheap = torch.randn(3, ratio - 1, 1, 3, 3, generator=generator, dtype=torch.float64)
    whole = torch.cat([F.pad(first, (1, 1, 1, 1)), (cheap * first[:, None]).flatten(0, 1)])
    conv = nn.Conv2d(5, 3 * ratio, 3, padding=padding, bias=False).double()
    conv.weight.data = whole[torch.randperm(3 * ratio, generator=generator)]
    program, x = double(conv, 9, 5, 8, 7)
    twin = built(entry("ghost", ratio=ratio), program, samples_of(program, x))
    assert error(program(x), twin(x)) < 1e-4  # but for the ridge
    dense, light = (cost(p).macs for p in (program, twin))
    assert light * len(conv.weight) == dense * 3 + dense * 3 * (ratio - 1) // 5


def test_a_ghost_layer_of_any_convolution_has_its_shape_and_the_computed_channels():
    conv = seeded(nn.Conv2d, 4, 6, 3, stride=2).double()
    program, x = double(conv, 6, 4, 9, 9)
    got, want = built(entry("ghost"), program, samples_of(program, x))(x), program(x)
    same = [c for c in range(6) if torch.allclose(got[:, c], want[:, c])]
    assert len(same) == 3
    assert 0.05 < error(want, got) < 1


def test_fits_are_those_of_lstsq():
    values = torch.randn(5, 3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    errors, _ = pairwise_fits(values)
    for one, other in itertools.permutations(range(3), 2):
        patches = F.unfold(values[:, one : one + 1], 3, padding=1).transpose(1, 2).reshape(-1, 9)
        rows = np.column_stack([patches.numpy(), np.ones(len(patches))])
        _, (residual,), *_ = np.linalg.lstsq(rows, values[:, other].reshape(-1).numpy(), rcond=None)
        assert float(errors[one, other]) == pytest.approx(residual, rel=1e-4)


@pytest.mark.parametrize("ratio", [2, 3])
def test_the_choice_is_near_the_best_of_all(ratio):
    random, lost, best = np.random.default_rng(0), 0.0, 0.0
    for _ in range(20):
        errors = random.random((6, 6)) ** 3
        primary, rest = (t.numpy() for t in chosen(errors, 6 // ratio))
        assert sorted([*primary, *rest]) == list(range(6))
        lost += errors[np.repeat(primary, ratio - 1), rest].sum()
        best += min(
            errors[np.repeat(some, ratio - 1), list(order)].sum()
            for some in itertools.combinations(range(6), 6 // ratio)
            for order in itertools.permutations(sorted(set(range(6)) - set(some)))
        )
    assert lost < 2 * best
