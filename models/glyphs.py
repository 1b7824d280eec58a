"""Drawn characters of any size and number: a workload harder than `digits`, that needs no data set."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_doc import Doc

from fxopt.errors import OptionError
from fxopt.models.glyph_images import ALPHABET, glyph_splits
from fxopt.models.images import LabelledImages
from fxopt.models.nets import CharacterNet
from fxopt.models.weights import load_weights
from fxopt.workload import Args, Workload

WEIGHTS = Path(__file__).parent / "demo_weights" / "glyphs.safetensors"
COMMAND = f"python -m fxopt.models.train glyphs --out {WEIGHTS}"


def glyphs(
    size: Annotated[int, Doc("Side of the images in pixels, 8 or more.")] = 32,
    *,
    classes: Annotated[str, Doc("The characters to tell apart, two or more.")] = ALPHABET,
    examples: Annotated[int, Doc("Training images; an eighth as many for validation and a quarter for test.")] = 9000,
    weights: Annotated[str | Path, Doc("File of trained weights; None for those that ship, or random ones.")]
    | None = None,
) -> Workload:
    """Drawn characters: 32x32 images, 45 classes, drawn on the fly, trained residual network (0.9 M parameters).

    Input float32 [N,1,size,size], output scores float32 [N,len(classes)]. The shipped weights belong to the default
    ``size`` and ``classes``; with others, name a file of yours (``python -m fxopt.models.train glyphs --size …``) in
    ``weights``, or the network is untrained, with the random weights of a fixed seed. Raises OptionError for a size
    below 8 or repeated classes.
    """
    if size < 8:
        raise OptionError(f"glyphs: size={size} is too small to draw in; give 8 or more")
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise OptionError(f"glyphs: classes={classes!r} must be two or more different characters")
    if examples < max(8, len(classes)):
        raise OptionError(
            f"glyphs: examples={examples} is too few; give 8, and one of each of the {len(classes)} classes"
        )
    if weights is None and (size, classes) == (32, ALPHABET):
        weights = WEIGHTS
    return Workload(
        name="glyphs",
        model=functools.partial(_model, len(classes), weights),
        inputs=functools.partial(_inputs, size),
        data=LabelledImages(functools.partial(glyph_splits, size, classes, examples)),
    )


def glyph_net(classes: int = len(ALPHABET)) -> CharacterNet:
    """The untrained network, initialised from torch's global generator."""
    return CharacterNet(classes, widths=(40, 80, 160), depth=(2, 2, 1), stem_pool=True)


def _model(classes: int, weights: str | Path | None) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = glyph_net(classes)
    if weights is not None:
        load_weights(Path(weights), model, command=COMMAND)
    return model.eval()


def _inputs(size: int) -> tuple[Args, dict[str, Any]]:
    return (torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(0)),), {}
