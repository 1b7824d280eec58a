"""Procedurally drawn scenes: coloured shapes, turned, overlapping and cut off, on uneven noisy ground, from a seed."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch

from fxopt.models.detection.targets import PADDING, Scenes
from fxopt.models.scene_shapes import SHAPES, bounds, coverage
from fxopt.models.splits import drawn_splits
from fxopt.workload import Split

_CHUNK = 256
_SLOTS = 6
"""Most shapes of a scene."""
_COVERED = 0.5
"""Largest part of a shape's box, or of a later one's, that may be common to both; such a later one is left out."""
_MOST = 0.5
"""The part of a pixel from which it belongs to a shape."""

_Array = np.ndarray[Any, Any]


@functools.lru_cache(maxsize=4)
def box_splits(size: int, examples: int) -> dict[Split, Scenes]:
    """Scenes of each split, drawn from a seed of its own, with boxes and classes."""
    return drawn_splits(examples, lambda count, seed: draw_scenes(count, size, seed))


@functools.lru_cache(maxsize=4)
def mask_splits(size: int, examples: int) -> dict[Split, tuple[torch.Tensor, torch.Tensor]]:
    """The same images, with masks: see :func:`draw_masks`."""
    return drawn_splits(examples, lambda count, seed: draw_masks(count, size, seed))


def draw_scenes(count: int, size: int, seed: int) -> Scenes:
    """Draw ``count`` scenes of one to six shapes: images uint8 [count,3,size,size], with boxes and classes.

    Shapes are 15 to 50 % of the side in size, later ones over earlier ones, and lie in the image with their centres. A box
    bounds the whole shape, what is hidden included, and is cut at the border of the image.
    """
    return _drawn(count, size, seed)[0]


def draw_masks(count: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of :func:`draw_scenes`, and uint8 [count,size,size]: what each pixel shows.

    That is 0 for the ground, and else one more than the class of the last shape that covers half of the pixel or more.
    """
    scenes, masks = _drawn(count, size, seed)
    return scenes.images, masks


def _drawn(count: int, size: int, seed: int) -> tuple[Scenes, torch.Tensor]:
    random = np.random.default_rng(seed)
    kinds = random.integers(len(SHAPES), size=(count, _SLOTS))
    radii = size * np.exp(random.uniform(math.log(0.075), math.log(0.25), (count, _SLOTS)))
    centres = random.uniform(0.06, 0.94, (count, _SLOTS, 2)) * size
    angles = random.uniform(0, 2 * math.pi, (count, _SLOTS))
    boxes = np.clip(bounds(kinds, radii, centres, angles), 0, size)
    there = _chosen(boxes, random.integers(1, _SLOTS + 1, count))
    colours, grounds = _colours(count, random)
    images = np.empty((count, 3, size, size), np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    for start in range(0, count, _CHUNK):  # in chunks, because they are drawn in float32
        some = slice(start, start + _CHUNK)
        canvas = _ground(grounds[some], size, random)
        for slot in range(_SLOTS):
            for kind in range(len(SHAPES)):
                (rows,) = np.nonzero(there[some, slot] & (kinds[some, slot] == kind))
                at = rows + start
                ink = coverage(kind, size, radii[at, slot], centres[at, slot], angles[at, slot])
                canvas[rows] += ink[:, None] * (colours[at, slot, :, None, None] - canvas[rows])
                masks[at] = np.where(ink >= _MOST, kind + 1, masks[at])
        images[some] = _degraded(canvas, random)
    labels = np.where(there, kinds, PADDING)
    boxes = np.where(there[..., None], boxes, 0)
    scenes = Scenes(torch.from_numpy(images), torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(labels))
    return scenes, torch.from_numpy(masks)


def _chosen(boxes: _Array, wanted: _Array) -> _Array:
    """Which shapes are drawn: the first ``wanted`` ones that leave enough of those before to be seen."""
    there = np.zeros(boxes.shape[:2], bool)
    areas = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    for slot in range(boxes.shape[1]):
        low = np.maximum(boxes[:, :slot, :2], boxes[:, slot, None, :2])
        high = np.minimum(boxes[:, :slot, 2:], boxes[:, slot, None, 2:])
        common = np.clip(high - low, 0, None).prod(-1) / np.minimum(areas[:, :slot], areas[:, slot, None])
        hides = ((common > _COVERED) & there[:, :slot]).any(1)
        there[:, slot] = ~hides & (there.sum(1) < wanted)
    return there


def _colours(count: int, random: np.random.Generator) -> tuple[_Array, _Array]:
    """Colours [count,slots,3] of shapes and [count,3] of grounds, 0 to 1, that differ by 0.3 or more in some channel."""
    grounds = random.uniform(0.15, 0.85, (count, 3)).astype(np.float32)
    colours = random.uniform(0, 1, (count, _SLOTS, 3)).astype(np.float32)
    channel = random.integers(3, size=(count, _SLOTS))[..., None]
    ground = np.take_along_axis(np.broadcast_to(grounds[:, None], colours.shape), channel, -1)
    off = np.take_along_axis(colours, channel, -1) * 0.2 + 0.3
    np.put_along_axis(colours, channel, np.where(ground > 0.5, ground - off, ground + off), -1)
    return colours, grounds


def _ground(colours: _Array, size: int, random: np.random.Generator) -> _Array:
    """Uneven light on a colour: four waves of random direction, length and phase. float32 [count,3,size,size]."""
    y, x = (np.mgrid[:size, :size] / size).astype(np.float32)
    light = np.zeros((len(colours), 1, size, size), np.float32)
    for _ in range(4):
        wave, phase = random.uniform(-9, 9, (2, len(colours), 1, 1, 1)), random.uniform(0, 6.3, (len(colours), 1, 1, 1))
        light += np.sin((wave[0] * x + wave[1] * y + phase).astype(np.float32)) * np.float32(0.04)
    return colours[:, :, None, None] + light


def _degraded(canvas: _Array, random: np.random.Generator) -> _Array:
    """Noise of a strength of its own in each image, then whole grey levels."""
    strength = random.uniform(0.02, 0.1, (len(canvas), 1, 1, 1)).astype(np.float32)
    noisy = canvas + strength * random.standard_normal(canvas.shape, dtype=np.float32)
    return (np.clip(noisy, 0, 1) * 255).round().astype(np.uint8)
