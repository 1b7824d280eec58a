"""A pipeline run with a cache: known steps looked up, the program after them loaded or recomputed, the rest run and stored."""

from __future__ import annotations

import contextlib
import itertools

from fxopt.errors import FxoptError
from fxopt.ir.program import Program
from fxopt.ir.program_state import program_digest
from fxopt.pass_manager.context_reads import ContextKeys, Reads, noting
from fxopt.pass_manager.line import Line
from fxopt.pass_manager.step_cache import Known, StepCache, watching_reads


def run_cached(line: Line, cache: StepCache) -> None:
    """Run the rest of a line."""
    keys = ContextKeys(line.context)
    since = 0.0  # seconds of passes after the last program that was stored
    state = program_digest(line.work)
    while line.left:
        if state is not None and (known := _follow(line, cache, keys, state)):
            state, since = known[-1].after, 0.0
            continue
        reads = Reads()
        before = len(line.results)
        with watching_reads(reads) as seen:
            result = line.run(noting(line.context, reads))
        after = program_digest(line.work) if state is not None else None
        if state is not None and after is not None and not seen.volatile:
            cache.keep(state, after, line.passes[before], line.watchers, keys, reads, result)
        since += result.seconds
        if since > cache.long and after is not None:
            cache.keep_program(line.work)
            since = 0.0
        state = after
    if since > cache.short and state is not None:
        cache.keep_program(line.work)


def _follow(line: Line, cache: StepCache, keys: ContextKeys, state: str) -> list[Known]:
    """Skip as many known steps as possible; return them."""
    known: list[Known] = []
    begun = state
    for pass_ in line.left:
        found = cache.find(state, pass_, line.watchers, keys)
        if found is None:
            break
        known.append(found)
        state = found.after
    while known:
        program = _stand_behind(line, cache, begun, known)
        if program is not None:
            line.skip_to(program, [step.result for step in known])
            break
    return known


def _stand_behind(line: Line, cache: StepCache, state: str, known: list[Known]) -> Program | None:
    """The program after known steps: stored, or recomputed from the last stored one; None after dropping a step that fails."""
    start, program = 0, line.work
    for i in range(len(known), 0, -1):
        if (stored := cache.program(known[i - 1].after)) is not None:
            start, program = i, stored
            break
    done = len(line.results)
    for i, step in itertools.islice(enumerate(known), start, None):
        if step.after == (known[i - 1].after if i else state):
            continue
        with contextlib.suppress(FxoptError):
            program = line.again(program, done + i)
        if program_digest(program) != step.after:
            cache.drop(step)
            del known[i:]
            return None
    return program
