"""Synthesised voices of which to tell the pitch: audio, with a small convolutional and recurrent network."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_doc import Doc

from fxopt.errors import OptionError
from fxopt.models.audio.data import BINS, PitchedAudio
from fxopt.models.audio.nets import PitchNet
from fxopt.models.audio.tones import HOP, tone_splits
from fxopt.models.weights import trained
from fxopt.workload import Args, Workload

WEIGHTS = Path(__file__).parent / "demo_weights" / "pitch.safetensors"
COMMAND = f"python -m fxopt.models.train pitch --out {WEIGHTS}"


def pitch(
    frames: Annotated[int, Doc("Frames of a recording, of 32 ms each; 2 or more.")] = 16,
    *,
    examples: Annotated[
        int, Doc("Training recordings; an eighth as many for validation and a quarter for test.")
    ] = 6000,
) -> Workload:
    """Synthesised voices to tell the pitch of: half a second at 8 kHz, trained convolutions and GRU (0.2 M parameters).

    Input float32 [N,1,256·frames], output scores float32 [N,192,frames] of bins of 25 cents over four octaves; the metric is
    the raw pitch accuracy, the share of frames within half a semitone. Raises OptionError for fewer than 2 frames or 8
    examples; the model raises RecipeError where its weights file is missing.
    """
    if frames < 2:
        raise OptionError(f"pitch: frames={frames} is too few for a melody; give 2 or more")
    if examples < 8:
        raise OptionError(f"pitch: examples={examples} is too few; give 8 or more")
    return Workload(
        name="pitch",
        model=functools.partial(trained, pitch_net, WEIGHTS, command=COMMAND),
        inputs=functools.partial(_inputs, frames),
        data=PitchedAudio(load=functools.partial(tone_splits, frames, examples)),
    )


def pitch_net() -> PitchNet:
    """The untrained network, initialised from torch's global generator."""
    return PitchNet(BINS)


def _inputs(frames: int) -> tuple[Args, dict[str, Any]]:
    return (torch.randn(1, 1, frames * HOP, generator=torch.Generator().manual_seed(0)),), {}
