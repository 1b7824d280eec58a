"""Latency of programs as the backend builds them for the target, timed side by side."""

from __future__ import annotations

from collections.abc import Mapping

from fxopt.driver.lower import lower
from fxopt.errors import UsageError
from fxopt.ir.program import Program
from fxopt.pass_manager.context import Context
from fxopt.runtime.device import cannot_time
from fxopt.runtime.interleaved import Call, time_artifacts
from fxopt.runtime.timing import Timing
from fxopt.support.scratch import scratch_folder
from fxopt.target.detect import host


def built_times(
    programs: Mapping[str, Program], context: Context, who: str, *, blocks: int = 11, block_ms: float = 40.0
) -> dict[str, Timing]:
    """Build every program, and time all of them in one run, as :func:`fxopt.runtime.timing.interleave` does.

    Raises UsageError in the name of ``who``, such as ``zero_channels: latency``, without a backend, and where the
    target is another machine without an address, or an emulated one; BackendError for a program that cannot be built.
    """
    if context.backend is None:
        raise UsageError(f"{who} is measured on a built model; run the pipeline with a backend, or -b NAME")
    target = context.target or host()
    if reason := cannot_time(target):
        raise UsageError(
            f"{who} is measured on the target, and {reason}",
            way_out="give the target the address of a device, run it there, or give a budget of MACs",
        )
    with scratch_folder() as folder:
        calls: dict[str, Call] = {}
        for i, (name, program) in enumerate(programs.items()):
            place = folder / str(i)
            place.mkdir()
            _, built = lower(program, context.backend, target, place, workload=context.workload, verified=False)
            args, kwargs = built.random_inputs()
            calls[name] = built, tuple(args), kwargs
        return time_artifacts(calls, blocks=blocks, block_ms=block_ms)
