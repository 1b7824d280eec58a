"""What can be removed of small models, and that removing half of it keeps their outputs: shrink's own proof says so.

The expected sizes of groups are counted by hand from the models.
"""

import pytest
import torch
from cases.coupling_models import (
    Aliased,
    Attention,
    ByHand,
    ChannelShuffle,
    Dense,
    Depthwise,
    Einsum,
    Factored,
    Fused,
    Glu,
    GroupNorm,
    Llama,
    Masked,
    MultiHead,
    PaddedShortcut,
    PatchMerging,
    Permuted,
    PixelShuffle,
    Positional,
    Recurrent,
    RmsByHand,
    SqueezeExcite,
    SuperResolution,
    Tied,
    Twice,
    UNet,
    Windows,
    images,
    tokens,
)
from cases.shrinking import captured, zeroed
from torch import nn

from fxopt import Pipeline, capture
from fxopt.passes.prune.coupling.analysis import couple
from fxopt.passes.prune.coupling.groups import find_groups
from fxopt.passes.prune.shrink import shrink

pytestmark = pytest.mark.usefixtures("one_thread")

SEQUENCE, VECTORS, IMAGES = images(5, 10), images(10), images()
FAMILY = [  # model, its options, inputs, sizes of its groups
    *[(Attention, (how,), SEQUENCE, [4, 3, 2, 5]) for how in ("expand", "repeat_interleave", "flag", "tile")],
    (ByHand, (True,), SEQUENCE, [3, 4, 5]),
    (ByHand, (False,), SEQUENCE, [3, 4, 5]),
    (Fused, ("view",), SEQUENCE, [3, 4]),
    (Fused, ("split",), SEQUENCE, [3, 4, 4]),
    (MultiHead, (), SEQUENCE, [12, 3, 4, 12]),
    (Einsum, (), SEQUENCE, [3, 4, 5]),
    (Llama, (RmsByHand,), tokens(), [14, 2, 3, 2, 5, 17]),
    (Llama, (nn.RMSNorm,), tokens(), [14, 2, 3, 2, 5, 17]),
    (Factored, ((4, 6), (12, 2)), VECTORS, [4, 3, 2]),
    (Factored, ((4, 6), (6, 4)), VECTORS, [2, 1]),
    (GroupNorm, (3,), IMAGES, [3]),
    (GroupNorm, (1,), IMAGES, []),
    (Glu, (True,), IMAGES, [7]),
    (Glu, (False,), IMAGES, [7]),
    (SqueezeExcite, (), IMAGES, [12, 4]),
    (PaddedShortcut, (), IMAGES, [11]),
    (Permuted, (), VECTORS, [7]),
    (Aliased, (), VECTORS, [2, 4]),
    (Tied, (), tokens(), [8]),
    (Twice, (), VECTORS, [8]),
    (PatchMerging, (), IMAGES, [6, 10]),
    (Windows, (), IMAGES, [10, 3, 4, 4]),
    (ChannelShuffle, (False,), IMAGES, [3, 4, 4]),
    (ChannelShuffle, (True,), IMAGES, [3, 4, 4]),
    (PixelShuffle, (), IMAGES, [5]),
    (SuperResolution, (), IMAGES, [5]),
    (Dense, (), IMAGES, [6, 4, 4, 4]),
    (UNet, (), IMAGES, [6, 8, 7]),
    (Masked, (), VECTORS, [8]),
    (Positional, (), tokens(6), [8]),
    (Depthwise, (), IMAGES, [3, 2, 2, 5]),
    (Recurrent, (), SEQUENCE, [6, 8]),
]


def sizes(program):
    return sorted(len(group.atoms) for group in find_groups(couple(program)))


def weights(program):
    return sum(tensor.numel() for tensor in program.tensors().values())


@pytest.mark.parametrize(
    ("factory", "options", "inputs", "groups"), FAMILY, ids=lambda v: getattr(v, "__name__", None) or str(v)[:24]
)
def test_half_goes(factory, options, inputs, groups):
    program = captured(factory, options, inputs)
    assert sizes(program) == sorted(groups)
    for seed in range(2):
        work = program.copy()
        left = zeroed(work, seed)
        small = (
            Pipeline.of(shrink()).run(work).program
        )  # its verification compares outputs and every value that is left
        if factory is Einsum:  # that query and key are zero is not seen through an einsum
            left[1] = groups[1]
        most = sum(left)
        if factory is Masked:  # the mask of the layer that reads has zeros of its own
            most = 5
        assert sum(n for n in left if n > 1) * (factory is not Masked) <= sum(sizes(small)) <= most
        assert weights(small) < weights(program) or not groups
        assert not Pipeline.of(shrink()).run(small).steps[0].changed


def test_a_channel_that_is_always_zero_goes_though_weights_read_it():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3)).eval()
    with torch.no_grad():
        for parameter in module[0].parameters():
            parameter[[1, 3]] = 0
    small = Pipeline.of(shrink()).run(capture(module, IMAGES)).program
    assert [tuple(t.shape) for t in small.tensors().values() if t.dim() == 4] == [(6, 3, 3, 3), (5, 6, 3, 3)]


def test_nothing_goes_without_zeros():
    for factory, options, inputs, _ in FAMILY:
        if factory is not Masked:
            outcome = Pipeline.of(shrink()).run(captured(factory, options, inputs))
            assert not outcome.steps[0].changed, factory


def test_everything_read_as_zero_keeps_one_of_each_dim():
    for factory, options, inputs, groups in FAMILY:
        program = captured(factory, options, inputs)
        work = program.copy()
        zeroed(work, 0, share=1.0)
        small = Pipeline.of(shrink()).run(work).program
        assert all(0 not in tensor.shape for tensor in small.tensors().values())
        assert weights(small) < weights(program) or not groups


def test_mask_keeps_what_it_masks():
    """A masked weight has no zeros itself: the zeros are in the mask, and both are cut."""
    program = captured(Masked, (), VECTORS)
    small = Pipeline.of(shrink()).run(program).program.tensors()
    assert small["down.weight_orig"].shape == small["down.weight_mask"].shape == torch.Size([5, 5])
    assert small["up.weight_orig"].shape == torch.Size([5, 10])
