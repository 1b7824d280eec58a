"""Latency of programs as the backend builds them for the target, timed side by side."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from fxopt.errors import UsageError
from fxopt.lowering import lower
from fxopt.measure import Timing, interleave
from fxopt.program import Context, Program
from fxopt.target import host, not_here


def built_times(
    programs: Mapping[str, Program], context: Context, who: str, *, blocks: int = 11, block_ms: float = 40.0
) -> dict[str, Timing]:
    """Build every program, and time all of them in one run, as :func:`fxopt.measure.interleave` does.

    Raises UsageError in the name of ``who``, such as ``zero_channels(latency_ms=…)``, without a backend, and where the
    target is not this machine; BackendError for a program that cannot be built.
    """
    if context.backend is None:
        raise UsageError(f"{who} is measured on a built model; run the pipeline with a backend, or -b NAME")
    target = context.target or host()
    if reason := not_here(target):
        raise UsageError(
            f"{who} is measured on the target, and {target.name!r} is not this machine: {reason}\n"
            "  run it there, or give a budget of MACs"
        )
    with tempfile.TemporaryDirectory(prefix="fxopt-") as folder:
        runs: dict[str, Callable[[], object]] = {}
        for i, (name, program) in enumerate(programs.items()):
            place = Path(folder) / str(i)
            place.mkdir()
            _, built = lower(program, context.backend, target, place, workload=context.workload)
            args, kwargs = built.random_inputs()
            runs[name] = functools.partial(built, *args, **kwargs)
        return interleave(runs, blocks=blocks, block_ms=block_ms)
