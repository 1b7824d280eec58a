"""Steps that were run before: looked up by content, so that a pipeline goes on after its known steps.

The key of a step is the digest of the program before it and :func:`~fxopt.pass_manager.step_key.step_key`, and whatever else
was observed to be read when it ran. Different pipelines to equal programs share later steps. Results are plain data. A
program is stored where recomputing it would take long; otherwise it is recomputed and compared. Steps that time something,
draw from the global random state, or cannot be written are not stored, and failures are not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fxopt.errors import FxoptError
from fxopt.ir.cost import Cost
from fxopt.ir.node_values import Unwritable
from fxopt.ir.program import Choice, Measurement, Program, Skip
from fxopt.ir.program_state import program_digest, read_state, state_digest, write_state
from fxopt.pass_manager.context_reads import ContextKeys, Reads
from fxopt.pass_manager.pass_base import Pass
from fxopt.pass_manager.step import Findings, StepResult, Watcher
from fxopt.pass_manager.step_key import step_key
from fxopt.support.observed import Observed, observing
from fxopt.support.store import Store

LONG = 2.0
"""Seconds of passes from which on the program after them is stored, not recomputed."""

_READS, _STEPS, _PROGRAMS = "reads", "steps", "programs"


@dataclass(frozen=True)
class Known:
    """A step that was run before: its result, and the digest of the program after it."""

    key: str
    result: StepResult
    after: str


class StepCache:
    """Steps of a store, and programs: those after ``long`` seconds of passes, or a tenth of that at a pipeline's end."""

    def __init__(self, store: Store, long: float = LONG) -> None:
        self.store, self.long, self.short = store, long, long / 10

    def find(self, state: str, pass_: Pass, watchers: Sequence[Watcher], keys: ContextKeys) -> Known | None:
        """The step of a pass on the program of the digest ``state``, with these watchers in this context; None if unknown."""
        base = step_key(state, pass_, watchers)
        read = self.store.get(_READS, base, count=False) if base else None
        for reads in read.values["ways"] if read else ():
            beside = keys.digest(reads)
            key = f"{base}{beside}"
            entry = self.store.get(_STEPS, key) if beside else None
            if entry is not None:
                return Known(key, _read_result(entry.values["result"], pass_), entry.values["after"])
        return None

    def keep(
        self, state: str, after: str, pass_: Pass, watchers: Sequence[Watcher], keys: ContextKeys, reads: Reads,
        result: StepResult,
    ) -> None:  # fmt: skip
        """Store the result of a step, if it is plain data and all that it read has a digest."""
        plain = _write_result(result)
        base = step_key(state, pass_, watchers)
        way = reads.to_dict()
        beside = keys.digest(way)
        if base is None or beside is None:
            return
        known = self.store.get(_READS, base, count=False)
        ways = known.values["ways"] if known else []
        if way not in ways:
            self.store.put(_READS, base, {"ways": [*ways, way]})
        self.store.put(_STEPS, f"{base}{beside}", {"result": plain, "after": after})

    def drop(self, known: Known) -> None:
        """Drop a step whose recomputed program differs."""
        self.store.drop(_STEPS, known.key)

    def keep_program(self, program: Program) -> None:
        """Store a program under its digest, if it reads back the same."""
        from safetensors.torch import load, save

        with contextlib.suppress(Unwritable):
            state, tensors = write_state(program)
            blob = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
            with contextlib.suppress(FxoptError):
                digest = state_digest(state, tensors)
                if program_digest(read_state(json.loads(json.dumps(state)), load(blob))) == digest:
                    self.store.put(_PROGRAMS, digest, state, blob)

    def program(self, digest: str) -> Program | None:
        """The program of a digest, without a history; None where it is not stored, or did not read back the same."""
        from safetensors.torch import load

        entry = self.store.get(_PROGRAMS, digest)
        if entry is None:
            return None
        with contextlib.suppress(Unwritable, FxoptError):
            program = read_state(entry.values, load(entry.blob))
            if program_digest(program) == digest:
                return program
        self.store.drop(_PROGRAMS, digest)
        return None


@contextlib.contextmanager
def watching_reads(reads: Reads) -> Iterator[Observed]:
    """Record in ``reads`` what is read inside, and whether random numbers were drawn from the global state."""
    before = _random_state()
    with observing() as seen:
        yield seen
    if before != _random_state():
        seen.volatile.add("it draws from the global random state")
    reads.files |= seen.files
    reads.modules |= seen.modules


def _random_state() -> bytes:
    """The state of the three global generators."""
    return pickle.dumps((torch.get_rng_state().numpy().tobytes(), np.random.get_state(), random.getstate()))


def _write_result(result: StepResult) -> dict[str, Any]:
    """Plain values."""
    return {
        "changed": result.changed, "quantizes": result.quantizes, "seconds": result.seconds, "on_data": result.on_data,
        "findings": vars(result.findings),
        "skips": [dataclasses.asdict(skip) for skip in result.skips],
        "choices": [dataclasses.asdict(choice) for choice in result.choices],
        "measurements": [dataclasses.asdict(measurement) for measurement in result.measurements],
        "cost": dataclasses.asdict(result.cost) if result.cost else None,
    }  # fmt: skip


def _read_result(plain: dict[str, Any], pass_: Pass) -> StepResult:
    cost = plain["cost"] and Cost(**plain["cost"] | {"unknown": tuple(plain["cost"]["unknown"])})
    return StepResult(
        str(pass_), pass_.kind, changed=plain["changed"], quantizes=plain["quantizes"], seconds=plain["seconds"],
        on_data=plain["on_data"], findings=Findings(**plain["findings"]), cost=cost, cached=True,
        skips=[Skip(**s) for s in plain["skips"]],
        choices=[Choice(**c) for c in plain["choices"]],
        measurements=[Measurement(**m) for m in plain["measurements"]],
    )  # fmt: skip
