"""Programs built and loaded by a backend alone, for its own tests: no report, no check, no file of a manifest."""

from pathlib import Path
from typing import Any

from fxopt import Pipeline, Program
from fxopt.backend import Backend, Manifest
from fxopt.driver.interface import interface
from fxopt.runtime.artifact import Artifact
from fxopt.target import host


def bare_manifest(**facts: Any) -> Manifest:
    """One without inputs and outputs, for this machine, with the ``facts`` of a build."""
    nothing: dict[str, Any] = {"inputs": [], "in_tree": None, "outputs": [], "out_tree": None, "dims": {}, "files": {}}
    return Manifest(**nothing, backend="eager", target=host(), facts=facts)


def built_alone(program: Program, backend: Backend, out: Path) -> tuple[Artifact, dict[str, Any]]:
    """The artifact of a program, legalized with proofs, and the facts of the build."""
    legal = Pipeline.parse(backend.legalize()).run(program).program
    facts = backend.build(legal, host(), out)
    manifest = Manifest(**dict(interface(legal)), backend=str(backend), target=host(), files={}, facts=facts)
    return Artifact(out, manifest, backend.load(out, manifest)), facts
