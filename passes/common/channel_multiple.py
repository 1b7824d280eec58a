"""Which multiple the number of channels should be on a target: what its kernels round up to anyway."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from fxopt.backend import Backend
from fxopt.driver.lower import lower
from fxopt.errors import FxoptError
from fxopt.frontend.capture import capture
from fxopt.ir.program import Program
from fxopt.pass_manager.context import Context
from fxopt.passes.common.bisection import first
from fxopt.runtime.device import cannot_time
from fxopt.runtime.interleaved import Call, time_artifacts
from fxopt.support.observed import is_volatile
from fxopt.support.scratch import scratch_folder
from fxopt.target import Target
from fxopt.target.detect import host

CANDIDATES = (1, 2, 4, 8, 16, 32)

_LOW, _HIGH, _PIXELS = 32, 64, 28
_BLOCKS, _BLOCK_MS = 11, 1.5
_TOLERANCE = 0.06
_RULES = (("amx-int8", 32), ("avx512f", 16), ("avx2", 8), ("sve", 8), ("neon", 8))
"""Features, and the channels that the usual blocked kernels handle at a time."""

Costs = Callable[[int], tuple[float, float, float]]
"""Seconds, in any unit, of a layer with that many channels, with 32 and with 64, timed side by side."""


@dataclass(frozen=True)
class ChannelMultiple:
    """The multiple, and how it was found."""

    value: int
    how: str


class _FreeWidthError(Exception):
    """More channels cost nothing, so that no multiple follows from what they cost."""


def channel_multiple(target: Target, backend: Backend | None) -> ChannelMultiple:
    """The multiple for the number of channels: the target's own, timed with the backend on the target, or by a rule.

    Two 3x3 convolutions, 32 → w → 32 channels of 28x28 in float32, are built for w of 32, 64 and two or three in between;
    see :func:`granularity`. That takes up to about ten seconds, once for each target and backend in a process. The target
    must be this machine or have an address, and the backend must build the layers; otherwise the rule is: 32 with AMX, 16
    with AVX-512, 8 with AVX2, NEON or SVE, else 4.
    """
    if target.channel_multiple is not None:
        return ChannelMultiple(target.channel_multiple, f"given by the target {target.name}")
    if backend is None:
        return _by_rule(target, "no backend is given to measure with")
    alike = target if target.address else replace(target, cores=host().cores)  # the number of cores changes no block
    if reason := cannot_time(alike):
        return _by_rule(target, reason)
    is_volatile("it measured the multiple of channels")
    return _measured(target, backend)


def multiple_for(program: Program, context: Context) -> int:
    """The multiple for the target and backend of a pipeline, which is reported as the pass's choice with the reason."""
    found = channel_multiple(context.target or host(), context.backend)
    program.chose("multiple", found.value, found.how)
    return found.value


def granularity(costs: Costs) -> int | None:
    """The least multiple from which on more channels cost no more than in proportion; None if width costs nothing.

    Kernels work on blocks: with blocks of 16, 40 channels cost as much as 48. A line through the costs of 32 and 64
    channels, which are whole blocks whatever the block is, tells what a width would cost in proportion. For a multiple m,
    32 + m channels lie on that line, within 6 %, if m is whole blocks, and above it otherwise; also where a backend has
    only a slow kernel for odd widths. The least such m is found by bisection.
    Blocks of 4 or less come out smaller, as filling them saves less than that.
    """
    try:
        return CANDIDATES[first(-1, len(CANDIDATES) - 1, lambda i: _proportionate(costs, CANDIDATES[i]))]
    except _FreeWidthError:
        return None


def _proportionate(costs: Costs, multiple: int) -> bool:
    """Whether 32 + ``multiple`` channels cost no more than in proportion. Raises _FreeWidthError if 64 cost no more than 32."""
    for _ in range(2):  # what looks slow is timed once more: something else may have been running
        cost, least, most = costs(_LOW + multiple)
        if most < least * (1 + 2 * _TOLERANCE):
            raise _FreeWidthError
        line = least + (most - least) * multiple / (_HIGH - _LOW)
        if cost <= line * (1 + _TOLERANCE):
            return True
    return False


@functools.cache
def _measured(target: Target, backend: Backend) -> ChannelMultiple:
    runs: dict[int, Call] = {}
    fastest: dict[int, float] = {}

    def costs(width: int) -> tuple[float, float, float]:
        for w in (_LOW, _HIGH, width):
            if w not in runs:
                runs[w] = _built(w, target, backend, folder / str(w))
        timed = time_artifacts({str(w): runs[w] for w in (width, _LOW, _HIGH)}, blocks=_BLOCKS, block_ms=_BLOCK_MS)
        # short blocks after a pause are seldom interrupted; medians, as a busy machine may leave all cores to one model for
        # a moment, and the least of them over all probes, as it may get quieter meanwhile
        for w in (width, _LOW, _HIGH):
            fastest[w] = min(fastest.get(w, math.inf), timed[str(w)].ms.median)
        return fastest[width], fastest[_LOW], fastest[_HIGH]

    try:
        with scratch_folder() as folder:
            value = granularity(costs)
    except FxoptError as error:
        return _by_rule(target, f"{backend} did not build the layers to be timed: {error.what}")
    if value is None:
        return _by_rule(target, f"with {backend} a layer of {_HIGH} channels takes no longer than one of {_LOW}")
    return ChannelMultiple(value, f"measured on {target.name} with {backend}")


def _built(width: int, target: Target, backend: Backend, out: Path) -> Call:
    layers = nn.Sequential(nn.Conv2d(_LOW, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, _LOW, 3, padding=1))
    program = capture(layers.eval(), (torch.zeros(1, _LOW, _PIXELS, _PIXELS),), dynamic=None)
    out.mkdir()
    _, built = lower(program, backend, target, out)
    args, kwargs = built.random_inputs()
    return built, tuple(args), kwargs


def _by_rule(target: Target, why: str) -> ChannelMultiple:
    feature, value = next(((f, n) for f, n in _RULES if f in target.features), ("no vector unit known", 4))
    return ChannelMultiple(value, f"by rule, {feature}: {why}")
