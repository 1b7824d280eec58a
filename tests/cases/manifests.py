"""A manifest for tests that load a backend's files without an artifact around them."""

from typing import Any

from fxopt.backend import Manifest
from fxopt.target import host


def bare_manifest(**facts: Any) -> Manifest:
    """One without inputs and outputs, for this machine, with the ``facts`` of a build."""
    nothing: dict[str, Any] = {"inputs": [], "in_tree": None, "outputs": [], "out_tree": None, "dims": {}, "files": {}}
    return Manifest(**nothing, backend="eager", target=host(), facts=facts)
