"""Recordings with the pitch of each frame as a workload's data: batches, loss, raw pitch accuracy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from fxopt.models.audio.tones import OCTAVES
from fxopt.models.images import scores
from fxopt.models.splits import halved, one_split
from fxopt.workload import Args, Split

Splits = Mapping[Split, tuple[torch.Tensor, torch.Tensor]]
"""Per split: recordings int16 [N, samples], and the pitch in cents, float32 [N, frames]."""

STEP = 25.0
"""Width of a bin in cents."""
BINS = int(1200 * OCTAVES / STEP)
_NEAR = 50.0
"""Cents up to which a pitch is right."""


@dataclass(frozen=True)
class PitchedAudio:
    """Data (see :class:`fxopt.workload.Data`) over splits that ``load`` returns; ``load`` should be cached.

    The model answers with scores [N, 192, frames] of bins of 25 cents, from 0 to 4800. Its input is float32
    [N, 1, samples], -1 to 1. Targets are pitches in cents [N, frames].
    """

    load: Callable[[], Splits]
    metric: str = "raw pitch accuracy"

    def batches(self, split: Split, *, batch_size: int, seed: int | None = None) -> Iterator[tuple[Args, Any]]:
        """Yield ``((waves,), pitch)``: as stored without a seed, else shuffled, half of them upside down, louder or softer."""
        waves, pitch = one_split(self.load(), split)
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        order = torch.arange(len(waves)) if generator is None else torch.randperm(len(waves), generator=generator)
        for rows in order.split(batch_size):
            some = waves[rows].unsqueeze(1).float() / 32768
            if generator is not None:
                sign = torch.randint(0, 2, (len(rows), 1, 1), generator=generator) * 2 - 1
                some = some * sign * torch.empty(len(rows), 1, 1).uniform_(0.5, 1.1, generator=generator)
            yield (some,), pitch[rows]

    def loss(self, output: Any, target: Any) -> torch.Tensor:
        """Cross entropy of scores against bins weighted by a normal curve of 25 cents at the pitch (Kim et al. 2018, eq. 2)."""
        far = (target.unsqueeze(1) - _middles(target).view(1, -1, 1)) / STEP
        return -(torch.softmax(-(far**2) / 2, 1) * torch.log_softmax(output, 1)).sum(1).mean()

    def evaluate(self, model: Callable[..., Any], split: Split = "test") -> float:
        """Share of frames, 0 to 1, whose likeliest bin is within 50 cents of the pitch (Salamon et al. 2014)."""
        return self.figures(model, split)["raw pitch accuracy"]

    def figures(self, model: Callable[..., Any], split: Split = "test") -> dict[str, float]:
        """``raw pitch accuracy``; ``chroma accuracy``, in which octaves do not count; and ``median error`` in cents."""
        off = []
        with torch.no_grad():
            for args, pitch in self.batches(split, batch_size=64):
                off.append(_middles(pitch)[scores(model(*args)).argmax(1)] - pitch)
        error = torch.cat(off).double()
        octaves = (error / 1200).round() * 1200
        return {
            "raw pitch accuracy": float((error.abs() <= _NEAR).double().mean()),
            "chroma accuracy": float(((error - octaves).abs() <= _NEAR).double().mean()),
            "median error": float(error.abs().median()),
        }

    def half(self, index: Literal[0, 1]) -> PitchedAudio:
        """The same data with every other recording of the validation split."""
        return replace(self, load=functools.partial(halved, self.load, index))


def _middles(like: torch.Tensor) -> torch.Tensor:
    """The pitch in cents at the middle of each bin, where ``like`` is."""
    return (torch.arange(BINS, device=like.device) + 0.5) * STEP
