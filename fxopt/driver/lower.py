"""From a program to a loaded artifact: legalize, ask the backend, build, load."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxopt.backend import Backend
from fxopt.backend.manifest import Manifest
from fxopt.driver.artifact_cache import build_files
from fxopt.driver.interface import interface
from fxopt.errors import BackendError
from fxopt.ir.program import Program
from fxopt.ir.shared_copy import shared_copy
from fxopt.numerics.independent_examples import has_independent_examples
from fxopt.pass_manager.pipeline import Pipeline
from fxopt.pass_manager.step_cache import StepCache
from fxopt.pass_manager.verify import Verify
from fxopt.runtime.artifact import Artifact, load_to_check
from fxopt.runtime.staging import MANIFEST, describe_files, write_json
from fxopt.support.versions import versions
from fxopt.target import Target
from fxopt.target.int8_pairs import check_weights

if TYPE_CHECKING:
    from fxopt.workload import Workload


def legalized(
    program: Program,
    backend: Backend,
    target: Target,
    workload: Workload | None = None,
    cache: StepCache | None = None,
    *,
    verified: bool = True,
) -> Program:
    """The program legalized for the backend, refused nodes included, with the bounds that it needs of its sizes."""
    passes = Pipeline.parse(backend.legalize())
    legal = passes.run(
        program, watchers=(Verify(),) if verified else (), workload=workload, target=target, backend=backend, cache=cache,
        told_at=logging.DEBUG,
    ).program  # fmt: skip
    if bounds := backend.largest_sizes(legal):
        legal = shared_copy(legal)
        legal.ranges |= {symbol: (legal.ranges.get(symbol, (1, None))[0], high) for symbol, high in bounds.items()}
    return legal


def lower(
    program: Program,
    backend: Backend,
    target: Target,
    out: Path,
    *,
    workload: Workload | None = None,
    recipe: dict[str, Any] | None = None,
    cache: StepCache | None = None,
    verified: bool = True,
) -> tuple[Program, Artifact]:
    """Build a program into the folder ``out``; return it as legalized, and the artifact.

    Legalization is proved, but where the artifact is built only to be timed: not ``verified``. With a ``cache``, files that
    were built from the same program before are taken from it. The artifact is loaded on the target's device where the target
    has an address, else on this machine; one that can run on neither is built all the same, see its ``elsewhere``. Raises
    BackendError, DeviceError.
    """
    if reason := backend.cannot_build(target):
        raise BackendError(f"the backend {backend.name!r} cannot build for {target.name!r}: {reason}")
    legal = legalized(program, backend, target, workload, cache, verified=verified)
    facing = interface(legal)
    facts = build_files(legal, backend, target, out, cache)
    check_weights(facts, str(backend), target)
    manifest = Manifest(
        **dict(facing), backend=str(backend), target=target, recipe=recipe, history=list(program.history),
        versions=versions(), files=describe_files(out), facts=facts, splits=_may_split(program, legal),
    )  # fmt: skip
    write_json(out / MANIFEST, manifest.to_dict())
    return legal, load_to_check(out, target)


def _may_split(program: Program, legal: Program) -> bool:
    """Whether the backend bounded the batch, and a larger one may be run in parts."""
    batch = next((symbol for symbol, name in legal.dims().items() if name == "batch"), "")
    if legal.ranges.get(batch) == program.ranges.get(batch):
        return False
    unbounded = shared_copy(legal)  # of which two examples can be run where the backend takes one a call
    unbounded.ranges = dict(program.ranges)
    return has_independent_examples(unbounded)
