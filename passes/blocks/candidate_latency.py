"""Latency of candidates inside the net: the net with one in its block's place against the original net, in one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fxopt.driver.time_build import built_times
from fxopt.ir.program import Program
from fxopt.ir.shape_inference import derive_shapes
from fxopt.ir.shared_copy import shared_copy
from fxopt.pass_manager.context import Context
from fxopt.pass_manager.step import tidy
from fxopt.passes.blocks.block_program import put
from fxopt.passes.blocks.candidates import Candidate
from fxopt.support.progress import progress_bar

_AT_ONCE = 12
_BLOCKS, _BLOCK_MS = 15, 3.0  # short blocks are seldom interrupted by whatever else runs


def exchanged(program: Program, chosen: Iterable[Candidate], *, shapes: bool = True) -> Program:
    """A copy of a program with candidates in the places of their blocks; without ``shapes``, to be run alone."""
    twin = shared_copy(program)
    put(twin, [(candidate.block, candidate.program) for candidate in chosen])
    if not shapes:
        return twin
    tidy(twin)
    derive_shapes(twin)
    return twin


def latency_ratios(program: Program, context: Context, models: Mapping[str, Program], who: str) -> dict[str, float]:
    """Latency of each model over that of ``program``, as the backend builds them, timed side by side in one run.

    Raises UsageError where the target cannot be timed, and without a backend.
    """
    times = built_times({"": program} | dict(models), context, who, blocks=_BLOCKS, block_ms=_BLOCK_MS)
    return {name: times[name].ratio(times[""]).median for name in models}


def measure(program: Program, context: Context, candidates: Sequence[Candidate], who: str) -> None:
    """Set ``latency`` of each candidate; of those of one form for alike blocks the first is timed."""
    first: dict[tuple[str, str], Candidate] = {}
    for candidate in candidates:
        first.setdefault((candidate.block.alike, str(candidate.form)), candidate)
    with progress_bar("timing blocks", len(first)) as advance:
        alone = list(first.values())
        for some in (alone[i : i + _AT_ONCE] for i in range(0, len(alone), _AT_ONCE)):
            models = {str(i): exchanged(program, [candidate]) for i, candidate in enumerate(some)}
            ratios = latency_ratios(program, context, models, who)
            for i, candidate in enumerate(some):
                candidate.latency = ratios[str(i)] - 1
            advance(len(some))
    for candidate in candidates:
        candidate.latency = first[candidate.block.alike, str(candidate.form)].latency
