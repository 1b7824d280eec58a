"""Synthesised voices: that they have the pitch that is said, the metric, and the network of pitch on every backend."""

import numpy as np
import pytest
import torch

from fxopt.errors import OptionError
from fxopt.models.audio.data import BINS, PitchedAudio
from fxopt.models.audio.tones import HOP, LOWEST, RATE, play
from fxopt.workload import find_workload

pytestmark = pytest.mark.usefixtures("one_thread")


def test_recordings_are_those_of_their_seed():
    first, again, other = play(5, 8, 3), play(5, 8, 3), play(5, 8, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (5, 8 * HOP)
    assert first[1].shape == (5, 8)


def test_recordings_have_the_pitch_that_is_said():
    """Turned back by the pitch and its multiples, a wave stands still: more than by a pitch a semitone off either way."""
    waves, pitches = play(60, 32, 0)
    assert ((pitches > 0) & (pitches < 1200 * 4)).all()
    middles, time = (np.arange(32) + 0.5) * HOP, np.arange(32 * HOP)
    right = 0
    for wave, cents in zip(waves.double().numpy(), pitches.double().numpy(), strict=True):
        heights = LOWEST * 2 ** (np.interp(time, middles, cents) / 1200)
        standing = [_standing(wave, heights * 2 ** (off / 12)) for off in (-1, 0, 1)]
        right += standing[1] == max(standing)
    assert right >= 58


def _standing(wave, heights):
    """The power of what stands still for 32 ms at a time, of six partials."""
    turned = np.exp(-2j * np.pi * np.cumsum(heights) / RATE)
    return sum(np.abs((wave * turned**k).reshape(-1, HOP).mean(1) ** 2).sum() for k in range(1, 7))


def _answers(cents):
    """Scores that are highest in the bins of these pitches."""
    return torch.nn.functional.one_hot((cents / 25).long(), BINS).movedim(-1, 1).float()


def _data(cents):
    return PitchedAudio(lambda: {"test": (torch.zeros(len(cents), 2 * HOP, dtype=torch.int16), cents)})


def test_half_a_semitone_is_right_and_octaves_are_no_pitch():
    cents = torch.tensor([[1212.5, 1212.5], [2412.5, 2412.5]])
    off = torch.tensor([[45.0, -70], [1200, 1290]])
    figures = _data(cents).figures(lambda _: _answers(cents + off).numpy())
    assert figures["raw pitch accuracy"] == 0.25
    assert figures["chroma accuracy"] == 0.5
    assert figures["median error"] == pytest.approx(75), "in bins: 50, 75, 1200 and 1300"


def test_the_loss_is_the_cross_entropy_against_a_normal_curve():
    stats = pytest.importorskip("scipy.stats")
    output, cents = torch.randn(2, BINS, 3), torch.rand(2, 3) * 4000 + 400
    logs = torch.log_softmax(output.double(), 1).numpy()
    curve = stats.norm.pdf(12.5 + 25 * np.arange(BINS)[None, :, None], cents.numpy()[:, None], 25)
    want = -(curve / curve.sum(1, keepdims=True) * logs).sum(1).mean()
    assert float(_data(cents).loss(output, cents)) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("options", ["frames=1", "examples=7"])
def test_wrong_options_are_refused(options):
    with pytest.raises(OptionError, match=options):
        find_workload(f"pitch({options})")


def test_batches_by_a_seed_are_the_stored_ones_louder_softer_or_upside_down():
    data = find_workload("pitch(frames=4, examples=16)").data
    waves, pitches = data.load()["train"]
    seen = []
    for (some,), wanted in data.batches("train", batch_size=5, seed=2):
        for wave, cents in zip(some[:, 0], wanted, strict=True):
            row = int((pitches == cents).all(1).nonzero())
            ratio = wave / (waves[row].float() / 32768).clamp(min=1e-9).where(waves[row] > 0, torch.nan)
            seen.append((row, float(ratio.nanmedian())))
    assert sorted(row for row, _ in seen) == list(range(16))
    assert {ratio > 0 for _, ratio in seen} == {False, True}
    assert all(0.49 < abs(ratio) < 1.11 for _, ratio in seen)
