"""Synthesised recordings of one voice each: gliding, trembling tones of many timbres, in noise, from a seed."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch

from fxopt.models.splits import drawn_splits
from fxopt.workload import Split

RATE = 8000
"""Samples a second."""
HOP = 256
"""Samples from the middle of a frame to that of the next: 32 ms."""
LOWEST = 65.406
"""The frequency in hertz that pitch is counted from, in cents (a hundredth of a semitone): the C two octaves below the middle."""
OCTAVES = 4

_CHUNK = 256
_PARTIALS = 14
_Array = np.ndarray[Any, Any]


@functools.lru_cache(maxsize=4)
def tone_splits(frames: int, examples: int) -> dict[Split, tuple[torch.Tensor, torch.Tensor]]:
    """Recordings of each split, played from a seed of its own."""
    return drawn_splits(examples, lambda count, seed: play(count, frames, seed))


def play(count: int, frames: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``count`` recordings int16 [count, frames * 256] at 8 kHz, and the pitch float32 [count, frames] in the middle of frames.

    Pitch is in cents above 65.4 Hz, 0 to 4800. It glides by up to three semitones and trembles by up to 40 cents; partials
    fall off at 3 to 12 dB an octave and are coloured by two resonances, and the first may be as good as missing; white noise is
    from 10 dB above to 15 dB below.
    """
    random = np.random.default_rng(seed)
    waves = np.empty((count, frames * HOP), np.int16)
    pitch = np.empty((count, frames), np.float32)
    for start in range(0, count, _CHUNK):  # in chunks, because they are made in float32
        some = slice(start, min(start + _CHUNK, count))
        cents = _melodies(some.stop - start, frames * HOP, random)
        pitch[some] = cents[:, HOP // 2 :: HOP]
        wave = _voices(cents, random)
        wave += _noise(wave, random)
        loudest = np.abs(wave).max(1, keepdims=True)
        waves[some] = wave / loudest * random.uniform(0.1, 0.9, loudest.shape) * 32767
    return torch.from_numpy(waves), torch.from_numpy(pitch)


def _melodies(count: int, samples: int, random: np.random.Generator) -> _Array:
    """Pitch in cents at each sample, [count,samples]: a straight glide and a sine on it."""
    time = np.arange(samples) / RATE
    start, end = _column(0, 1, count, random), _column(-300, 300, count, random)
    glide = 350 + start * (1200 * OCTAVES - 700) + end * (time / time[-1])
    depth, rate, phase = (
        _column(0, 40, count, random),
        _column(4, 7, count, random),
        _column(0, 2 * math.pi, count, random),
    )
    return glide + depth * np.sin(2 * math.pi * rate * time + phase)


def _voices(cents: _Array, random: np.random.Generator) -> _Array:
    """Sums of partials, [count,samples] of about unit variance."""
    count = len(cents)
    frequency = LOWEST * 2 ** (cents / 1200)
    turn = np.exp(2j * math.pi * np.cumsum(frequency, 1) / RATE).astype(np.complex64)
    fall, missing = _column(0.5, 2, count, random), 10 ** -_column(0, 1, count, random)
    resonances = [(_column(300, 3000, count, random), _column(100, 500, count, random)) for _ in range(2)]
    wave, partial = np.zeros(cents.shape, np.float32), np.ones(cents.shape, np.complex64)
    for number in range(1, _PARTIALS + 1):
        partial = partial * turn
        height = number * frequency
        colour = 0.2 + sum(1 / (1 + ((height - middle) / width) ** 2) for middle, width in resonances)
        loud = number**-fall * colour * (height < 0.45 * RATE) * (missing if number == 1 else 1)
        phase = np.exp(1j * _column(0, 2 * math.pi, count, random)).astype(np.complex64)
        wave += loud.astype(np.float32) * (phase * partial).real
    return wave / wave.std(1, keepdims=True)


def _noise(wave: _Array, random: np.random.Generator) -> _Array:
    level = 10 ** (_column(-15, 10, len(wave), random) / 20)
    return (level * random.standard_normal(wave.shape, dtype=np.float32)).astype(np.float32)


def _column(low: float, high: float, count: int, random: np.random.Generator) -> _Array:
    return random.uniform(low, high, (count, 1))
