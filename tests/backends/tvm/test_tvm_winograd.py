"""Minimal filtering in the TVM backend: exact in fractions, and as direct convolutions in every form of kernel."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch
from cases import tuned
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fxopt import capture
from fxopt.backends.tvm import Tvm
from fxopt.backends.tvm.machine.processor import processor_of
from fxopt.backends.tvm.ops import winograd
from fxopt.backends.tvm.ops.conv2d import Convolution
from fxopt.backends.tvm.tiling.task import Choices, Tile, candidates
from fxopt.driver.lower import lower
from fxopt.target import find_target
from fxopt.target.detect import host

if reason := Tvm().missing():
    pytest.skip(reason, allow_module_level=True)


@pytest.mark.parametrize("side", [2, 4])
@given(data=st.data())
def test_the_matrices_give_exactly_what_the_window_gives(side, data):
    numbers = st.integers(-99, 99).map(Fraction)

    def drawn(size):
        row = st.lists(numbers, min_size=size, max_size=size)
        return np.array(data.draw(st.lists(row, min_size=size, max_size=size)), object)

    inputs, window = drawn(side + 2), drawn(3)
    taken, given_, turned = winograd.matrices(side)
    got = taken @ ((given_ @ window @ given_.T) * (turned @ inputs @ turned.T)) @ taken.T
    for i in range(side):
        for j in range(side):
            assert got[i, j] == (inputs[i : i + 3, j : j + 3] * window).sum()


class _Block(nn.Module):
    """A convolution with what is fused behind it: a bias, a residual of the same shape, an activation."""

    def __init__(self, inputs: int, outputs: int, padding: tuple[int, int], *, residual: bool) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(inputs, inputs, 1), nn.Conv2d(inputs, outputs, 3, padding=padding)
        self.beside = nn.Conv2d(inputs, outputs, 3, padding=padding) if residual else None

    def forward(self, x):
        x = self.first(x)
        y = self.conv(x)
        return F.relu(y + F.hardswish(self.beside(x)) if self.beside is not None else y)


@pytest.mark.parametrize(
    "rows", [pytest.param((3, 21), id="one strip"), pytest.param((90, 110), id="strips", marks=pytest.mark.slow)]
)
@given(data=st.data())
@settings(
    max_examples=4, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_filtered_convolutions_are_those_of_float64(tmp_path_factory, rows, data):
    """Channels that are no whole vectors, images that are no whole squares, borders, any batch.

    Tall images are computed in strips, as the transformed values of all their squares take more than 4 MB.
    """
    inputs, outputs = data.draw(st.integers(16, 40), "inputs"), data.draw(st.integers(1, 70), "outputs")
    size = data.draw(st.tuples(st.integers(*rows), st.integers(*rows) if rows[0] < 9 else st.just(60)), "size")
    padding = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)), "padding")
    narrow = dataclasses.replace(host(), features=frozenset(f for f in host().features if "avx512" not in f))
    target = data.draw(st.sampled_from([host(), narrow]), "target")
    side = data.draw(st.sampled_from([2, 4]), "side")
    torch.manual_seed(0)
    net = _Block(inputs, outputs, padding, residual=data.draw(st.booleans(), "residual")).eval()
    program = capture(net, (torch.randn(2, inputs, *size),))
    out, processor = tmp_path_factory.mktemp("block"), processor_of(target)
    tiles = {key: _of(task, side, processor) for key, task in tuned.tasks(program, target).items()}
    backend = tuned.backend(out / "tiles.jsonl", target, tiles, min(2, processor.cores))
    artifact = lower(program, backend, target, out)[1]
    assert artifact.manifest.facts["tiles"] == {key: tile.to_dict() for key, tile in tiles.items()}
    for batch in (1, 3):
        x = torch.randn(batch, inputs, *size)
        want = net.double()(x.double()).detach().numpy()
        net.float()
        np.testing.assert_allclose(artifact(x.numpy()), want, rtol=0, atol=2e-5 * max(1.0, np.abs(want).max()))


def _of(task, side, processor):
    return next((t for t in candidates(task, processor) if t.winograd == side), None) or candidates(task, processor)[0]


PROCESSORS = ["x86_64_v2", "x86_64_v3", "x86_64_v4", "raspberry_pi_4"]
"""Vectors of 4 numbers, 8, and 16; and 4 of more registers."""


def _conv(inputs, outputs, size, processor, **other):
    usual = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
    return Convolution(inputs, outputs, **(usual | other), size=size, lanes=processor.lanes, blocked_input=True).task()


@pytest.mark.parametrize("target", PROCESSORS)
def test_only_eligible_convolutions_use_winograd_and_few_large_weights_do_not(target):
    processor = processor_of(find_target(target))

    def chosen(*sizes, **other):
        return candidates(_conv(*sizes, processor, **other), processor)[0].winograd

    assert chosen(64, 64, (56, 56)) == 4
    # weights of 38 MB for four squares: wide vectors multiply faster, and read no faster
    assert chosen(512, 512, (7, 7)) == (2 if processor.lanes == 16 else 4)
    assert chosen(2048, 2048, (2, 2)) == 0
    for other in ({"stride": (2, 2)}, {"dilation": (2, 2)}, {"kernel": (3, 1)}, {"kernel": (5, 5)}, {"groups": 64}):
        tiles = candidates(_conv(64, 64, (56, 56), processor, **other), processor)
        assert not any(tile.winograd for tile in tiles)


@pytest.mark.parametrize("target", PROCESSORS)
def test_the_best_of_each_way_is_among_the_first_to_be_tried(target):
    processor = processor_of(find_target(target))
    tiles = candidates(_conv(64, 64, (28, 28), processor), processor)
    assert {tile.winograd for tile in tiles[:3]} == {0, 2, 4}
    assert len(set(tiles)) == len(tiles)


def test_without_it_weights_keep_their_size_whatever_the_database_says(tmp_path):
    processor = processor_of(host())
    task = _conv(64, 64, (56, 56), processor)
    filtered = dataclasses.replace(Tile(4, 4), winograd=4)
    assert Choices(processor, {task.key: filtered})(task) == filtered
    assert Choices(processor, {task.key: filtered}, winograd=False)(task).winograd == 0
    program = capture(nn.Sequential(nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3)).eval(), (torch.randn(1, 64, 30, 30),))
    sizes, notes = {}, {}
    for on in (True, False):
        (out := tmp_path / str(on)).mkdir()
        _, artifact = lower(program, Tvm(threads=1, database="", winograd=on), host(), out)
        sizes[on], notes[on] = (out / "model.params").stat().st_size, str(artifact.manifest.facts["notes"])
    assert abs(sizes[True] - sizes[False] - 64 * 64 * 4 * (36 - 9)) < 100
    assert "1 convolution(s) are computed by minimal filtering, and their weights take 0.4 MB more" in notes[True]
    assert "minimal" not in notes[False]
